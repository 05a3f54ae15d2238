use super::*;
use portunus_config::{MapEnvironment, load_text};
use std::path::Path;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

/// A listener, and an upstream that points at it.
async fn upstream(pool: &str) -> (TcpListener, Arc<Upstream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let text = format!(
        "version: 1\nupstreams:\n  up: {{ url: http://{address}/mcp, pool: {pool}, timeouts: {{ connect: 100ms }} }}\nservers:\n  /mcp: up\n"
    );
    let loaded = load_text(&text, Path::new("t.yaml"), &MapEnvironment::default()).unwrap();
    (listener, Arc::clone(&loaded.snapshot.upstreams[0]))
}

async fn checkout(pool: &Arc<Pool>, upstream: &Upstream) -> Result<Checkout, CheckoutError> {
    pool.checkout(upstream, &Arc::new(Resolver::default()), Default::default()).await
}

fn is_warm(connection: &Connection) -> bool {
    matches!(connection, Connection::One(connection) if connection.reused)
}

async fn accept(listener: &TcpListener) -> TcpStream {
    listener.accept().await.unwrap().0
}

#[tokio::test]
async fn the_warmest_connection_is_used_next() {
    let (listener, up) = upstream("{ max_idle: 2 }").await;
    let pool = Arc::new(Pool::new(&up));
    let (first, second) = (checkout(&pool, &up).await.unwrap(), checkout(&pool, &up).await.unwrap());
    let (mut one, mut two) = (accept(&listener).await, accept(&listener).await);
    assert_eq!((pool.active_count(), pool.idle_count()), (2, 0));
    first.put_back();
    second.put_back();
    let mut again = checkout(&pool, &up).await.unwrap();
    let connection = again.connection().unwrap();
    assert!(is_warm(connection));
    let request = Outgoing::new(b"x".to_vec(), bytes::Bytes::new());
    let exchanged = connection.exchange(&request);
    assert!(tokio::time::timeout(Duration::from_millis(50), exchanged).await.is_err(), "nobody answers");
    let mut byte = [0];
    tokio::io::AsyncReadExt::read_exact(&mut two, &mut byte).await.unwrap();
    one.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_connection_that_closed_or_has_something_to_read_is_not_given_out() {
    let (listener, up) = upstream("{ max_idle: 4 }").await;
    let pool = Arc::new(Pool::new(&up));
    for unasked in [&b""[..], b"HTTP/1.1 408 Request Timeout\r\n\r\n"] {
        let mut one = checkout(&pool, &up).await.unwrap();
        let mut far = accept(&listener).await;
        far.write_all(unasked).await.unwrap();
        far.shutdown().await.unwrap();
        let Some(Connection::One(stream_has_news)) = one.connection() else { panic!("not HTTP/1.1") };
        while stream_has_news.is_quiet() {
            tokio::task::yield_now().await;
        }
        one.put_back();
        assert!(!is_warm(checkout(&pool, &up).await.unwrap().connection().unwrap()));
        drop(accept(&listener).await);
    }
}

#[tokio::test]
async fn idle_connections_age_out_and_surplus_ones_are_not_kept() {
    let (listener, up) = upstream("{ max_idle: 1, idle_timeout: 4s }").await;
    let pool = Arc::new(Pool::new(&up));
    let (one, two) = (checkout(&pool, &up).await.unwrap(), checkout(&pool, &up).await.unwrap());
    let _far = (accept(&listener).await, accept(&listener).await);
    one.put_back();
    two.put_back();
    assert_eq!(pool.idle_count(), 1);
    pool.sweep(Instant::now() + Duration::from_secs(3));
    assert_eq!(pool.idle_count(), 1);
    pool.sweep(Instant::now() + Duration::from_secs(5));
    assert_eq!(pool.idle_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn few_streams_wait_for_a_permit_with_their_request() {
    let (_listener, up) = upstream("{ max_streams: 4 }").await;
    let pool = Pool::new(&up);
    let at = |last: u8| Owner::at([10, 0, 0, last].into());
    assert!(pool.stream_turn(&up, at(1)).await.unwrap().is_none(), "there are permits");
    let _open = [pool.stream_permits.take(at(1), 3).unwrap(), pool.stream_permits.take(at(2), 1).unwrap()];
    let mut turns = Vec::new();
    while let Ok(turn) = pool.stream_turn(&up, at(1)).await {
        turns.push(turn.unwrap());
    }
    assert_eq!(turns.len(), MAX_WAITING_STREAMS / 4 * 3, "a quarter is for others");
    assert!(pool.stream_turn(&up, at(3)).await.unwrap().is_some());
    turns.pop();
    assert!(pool.stream_turn(&up, at(1)).await.is_ok());
}

#[tokio::test]
async fn without_a_permit_there_is_no_connection() {
    let (_listener, up) = upstream("{ max_connections: 1 }").await;
    let pool = Arc::new(Pool::new(&up));
    let held = checkout(&pool, &up).await.unwrap();
    assert!(matches!(checkout(&pool, &up).await, Err(CheckoutError::Exhausted)));
    let listens = CheckoutOptions { endless: true, ..Default::default() };
    let stream = pool.checkout(&up, &Arc::new(Resolver::default()), listens).await;
    assert!(stream.is_ok(), "streams have their own");
    drop(held);
    assert!(checkout(&pool, &up).await.is_ok());
}
