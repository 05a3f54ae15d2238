use super::*;
use crate::backend::upstream_call::{CallEvent, MAX_BUFFERED_MESSAGES, Rounds};
use crate::testing::{Asked, Bed, Server, Wire, within};
use portunus_filters::Identity;
use std::net::Ipv4Addr;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

const PERSON: &str = r#"{"elicitation":{}}"#;
const CALL: &str = r#"{"jsonrpc":"2.0","id":"c","method":"tools/call","params":{"name":"echo","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"progressToken":"t"}}}"#;
const INITIALIZED: &str =
    r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}}"#;
const QUESTION: &str = r#"{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{"message":"Name?","requestedSchema":{"type":"object","properties":{}}}}"#;
const PROGRESS: &str =
    r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":ID,"progress":1}}"#;

/// A legacy server whose tool asks, and then says what it is told to; `ID` stands for that of the call.
struct Asker {
    server: Server,
    says: UnboundedSender<&'static str>,
}

impl Asker {
    async fn start() -> Asker {
        let (says, told) = unbounded_channel();
        let told = Arc::new(tokio::sync::Mutex::new(told));
        let server = Server::start(move |asked, wire| attend(asked, wire, Arc::clone(&told))).await;
        Asker { server, says }
    }

    /// In front of it, and of nobody else.
    fn bed(&self) -> Bed {
        Bed::before(self.server.address, ", era: legacy")
    }
}

async fn attend(
    asked: Asked,
    mut wire: Wire,
    told: Arc<tokio::sync::Mutex<UnboundedReceiver<&'static str>>>,
) -> Option<Wire> {
    match asked.method() {
        "initialize" => wire.result(&asked, INITIALIZED).await,
        "GET" => wire.status("405 Method Not Allowed", "", "").await,
        "tools/call" => {
            wire.begin_events().await;
            wire.event(QUESTION).await;
            while let Some(text) = told.lock().await.recv().await {
                wire.event(&text.replace("ID", &asked.id())).await;
            }
        }
        _ => wire.accepted().await,
    }
    Some(wire)
}

/// A call of `caller` that its server has asked something about.
async fn asked(bed: &Bed, caller: &str) -> Resumed {
    let mut upstream_call = bed.open(&bed.place(caller, PERSON), CALL, Rounds::Asks).await;
    match within("a question", upstream_call.next()).await {
        CallEvent::Ask(questions) => Resumed { upstream_call, questions },
        other => panic!("no question: {other:?}"),
    }
}

fn bearer(last: u8) -> CallerKey {
    CallerKey::for_tables(&Identity::Anonymous { source: Ipv4Addr::new(10, 0, 0, last).into() }, &[])
}

fn owner(last: u8) -> Owner {
    Owner::at(Ipv4Addr::new(10, 0, 0, last).into())
}

fn ticket() -> Ticket {
    Ticket { server: ServerId("*|/mcp".into()), bearer: bearer(1), digest: [1; 16] }
}

async fn refused(bed: &Bed, serial: u64, ticket: &Ticket) -> bool {
    let claimed = within("the claim", bed.gateway.estate.parked.claim(serial, ticket)).await;
    claimed.is_err_and(|denial| denial.reason == Reason::UnknownState)
}

#[tokio::test]
async fn a_call_is_given_back_once_to_its_caller_and_for_what_it_was() {
    let asker = Asker::start().await;
    let bed = asker.bed();
    let parked = &bed.gateway.estate.parked;
    let call = asked(&bed, "anna").await;
    let serial = parked.park(&bed.gateway, ticket(), &ParkedRules::default(), call).unwrap();
    for (name, wrong) in [
        ("another caller", Ticket { bearer: bearer(2), ..ticket() }),
        ("another call", Ticket { digest: [2; 16], ..ticket() }),
        ("another endpoint", Ticket { server: ServerId("*|/other".into()), ..ticket() }),
    ] {
        assert!(refused(&bed, serial, &wrong).await, "{name}");
    }
    assert!(refused(&bed, serial + 1, &ticket()).await, "another number");
    let resumed = within("the call", parked.claim(serial, &ticket())).await.unwrap();
    assert_eq!(&*resumed.questions[0].method, "elicitation/create");
    assert!(refused(&bed, serial, &ticket()).await, "a second time");
    assert!(parked.is_empty());
}

#[tokio::test]
async fn what_the_server_says_meanwhile_reaches_the_client_in_order() {
    let asker = Asker::start().await;
    let bed = asker.bed();
    let parked = &bed.gateway.estate.parked;
    let call = asked(&bed, "anna").await;
    let serial = parked.park(&bed.gateway, ticket(), &ParkedRules::default(), call).unwrap();
    asker.says.send(PROGRESS).unwrap();
    asker.says.send(r#"{"jsonrpc":"2.0","id":ID,"result":{}}"#).unwrap();
    let Resumed { mut upstream_call, .. } = parked.claim(serial, &ticket()).await.unwrap();
    let mut turns = Vec::new();
    while turns.len() < 2 {
        turns.push(within("the rest", upstream_call.next()).await);
    }
    assert!(matches!(turns.as_slice(), [CallEvent::Note(_), CallEvent::Done(_)]), "{turns:?}");
}

#[tokio::test]
async fn too_many_are_refused_and_their_servers_told() {
    let asker = Asker::start().await;
    let bed = asker.bed();
    let parked = &bed.gateway.estate.parked;
    let rules = ParkedRules { max: 2, per_caller: 1, within: Duration::from_secs(600) };
    let park = async |caller| parked.park(&bed.gateway, ticket(), &rules, asked(&bed, caller).await);
    let first = park("anna").await.unwrap();
    assert_eq!(park("anna").await.unwrap_err().reason, Reason::Crowded, "her second");
    asker.server.hears("notifications/cancelled").await;
    park("bert").await.unwrap();
    assert_eq!(park("carl").await.unwrap_err().reason, Reason::Crowded, "the third of all");
    asker.server.hears("notifications/cancelled").await;
    parked.claim(first, &ticket()).await.unwrap();
    park("carl").await.unwrap();
}

#[tokio::test]
async fn the_calls_of_one_virtual_server_leave_the_places_of_another() {
    let asker = Asker::start().await;
    let bed = asker.bed();
    let parked = &bed.gateway.estate.parked;
    let rules = ParkedRules { max: 1, per_caller: 2, within: Duration::from_secs(600) };
    let park = async |caller, path: &str| {
        let ticket = Ticket { server: ServerId(path.into()), ..ticket() };
        parked.park(&bed.gateway, ticket, &rules, asked(&bed, caller).await).map_err(|denial| denial.reason)
    };
    park("anna", "*|/a").await.unwrap();
    assert_eq!(park("bert", "*|/a").await, Err(Reason::Crowded));
    park("bert", "*|/b").await.unwrap();
    park("bert", "*|/c").await.unwrap();
    assert_eq!(park("bert", "*|/d").await, Err(Reason::Crowded), "his third of all");
}

#[test]
fn the_last_places_are_for_callers_of_whom_few_wait() {
    let rules = ParkedRules { max: 8, per_caller: 32, within: Duration::from_secs(600) };
    let mut table = Table::default();
    let mut park = |serial: u64, caller: Owner| {
        let server = ServerId("*|/mcp".into());
        let admitted = table.admits(&server, caller, &rules).is_ok();
        if admitted {
            let (claim, _) = oneshot::channel();
            table.insert(serial, Slot { ticket: ticket(), caller, claim });
        }
        admitted
    };
    let greedy = (0..8).filter(|serial| park(*serial, owner(1))).count();
    assert_eq!(greedy, 6);
    assert!(park(8, owner(2)) && park(9, owner(2)) && !park(10, owner(2)) && !park(11, owner(4)));
    for serial in [0, 8, 9] {
        table.remove(serial).unwrap();
    }
    assert!(table.remove(0).is_none());
    assert_eq!((table.of_servers.of(&ticket().server), table.of_callers.of(&owner(1))), (5, 5));
    assert!(table.of_callers.0.len() == 1 && table.of_callers_at.0.len() == 1, "nobody else takes room");
}

#[tokio::test]
async fn a_call_that_nobody_takes_up_is_cancelled_at_its_server() {
    let asker = Asker::start().await;
    let bed = asker.bed();
    let rules = ParkedRules { within: Duration::from_millis(1), ..ParkedRules::default() };
    let parked = &bed.gateway.estate.parked;
    let call = asked(&bed, "anna").await;
    let serial = parked.park(&bed.gateway, ticket(), &rules, call).unwrap();
    asker.server.hears("notifications/cancelled").await;
    assert!(parked.is_empty() && refused(&bed, serial, &ticket()).await);
}

#[test]
fn there_are_so_many_places_and_no_more() {
    let rules =
        ParkedRules { max: 10 * MAX_PARKED, per_caller: 10 * MAX_PARKED, within: Duration::from_secs(600) };
    let mut table = Table::default();
    let admits = |table: &Table, owner| table.admits(&ticket().server, owner, &rules).is_ok();
    let most = 3 * MAX_PARKED as u64 / 4;
    for serial in 0..most {
        assert!(admits(&table, owner(1)), "{serial}");
        let (claim, _) = oneshot::channel();
        table.insert(serial, Slot { ticket: ticket(), caller: owner(1), claim });
    }
    assert!(!admits(&table, owner(1)) && admits(&table, owner(2)), "the rest is for others");
    for serial in most..MAX_PARKED as u64 {
        let (claim, _) = oneshot::channel();
        table.insert(serial, Slot { ticket: ticket(), caller: owner(2), claim });
    }
    assert!(!admits(&table, owner(3)));
}

#[tokio::test]
async fn a_call_whose_client_leaves_again_as_it_takes_it_up_is_cancelled() {
    let asker = Asker::start().await;
    let bed = asker.bed();
    let parked = &bed.gateway.estate.parked;
    let (call, ticket) = (asked(&bed, "anna").await, ticket());
    let serial = parked.park(&bed.gateway, ticket.clone(), &ParkedRules::default(), call).unwrap();
    let mut claim = Box::pin(parked.claim(serial, &ticket));
    // Claimed, and not yet handed over.
    let begun = std::future::poll_fn(|context| Poll::Ready(claim.as_mut().poll(context).is_pending())).await;
    drop(claim);
    assert!(begun);
    asker.server.hears("notifications/cancelled").await;
}

#[tokio::test]
async fn a_server_that_says_too_much_meanwhile_is_not_listened_to() {
    let asker = Asker::start().await;
    let bed = asker.bed();
    let parked = &bed.gateway.estate.parked;
    let call = asked(&bed, "anna").await;
    let serial = parked.park(&bed.gateway, ticket(), &ParkedRules::default(), call).unwrap();
    for _ in 0..=MAX_BUFFERED_MESSAGES {
        asker.says.send(PROGRESS).unwrap();
    }
    asker.server.hears("notifications/cancelled").await;
    assert!(refused(&bed, serial, &ticket()).await);
}

#[tokio::test]
async fn what_the_client_never_hears_takes_no_room_of_a_parked_call() {
    let asker = Asker::start().await;
    let bed = asker.bed();
    let parked = &bed.gateway.estate.parked;
    let call = asked(&bed, "anna").await;
    let serial = parked.park(&bed.gateway, ticket(), &ParkedRules::default(), call).unwrap();
    // Its client wants no log.
    let log = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#;
    for _ in 0..=MAX_BUFFERED_MESSAGES {
        asker.says.send(log).unwrap();
    }
    asker.says.send(r#"{"jsonrpc":"2.0","id":ID,"result":{}}"#).unwrap();
    let mut upstream_call = parked.claim(serial, &ticket()).await.unwrap().upstream_call;
    let turn = within("the answer", upstream_call.next()).await;
    assert!(matches!(turn, CallEvent::Done(_)), "{turn:?}");
}

#[tokio::test]
async fn what_is_kept_shares_no_memory_and_is_inspected_with_pauses() {
    let asker = Asker::start().await;
    let bed = asker.bed();
    let mut upstream_call = asked(&bed, "anna").await.upstream_call;
    let held = bed.gateway.backend.texts.held();
    asker.says.send(PROGRESS).unwrap();
    assert!(within("it is kept", upstream_call.buffer_next()).await);
    assert!(bed.gateway.backend.texts.held() > held, "its caller's share of kept texts");
    let gave_way = tokio::select! {
        biased;
        _ = upstream_call.next() => false,
        () = std::future::ready(()) => true,
    };
    assert!(gave_way, "other tasks have no turn before it is inspected");
    let turn = within("the progress", upstream_call.next()).await;
    assert!(matches!(turn, CallEvent::Note(_)), "{turn:?}");
    assert_eq!(bed.gateway.backend.texts.held(), held, "what was told takes no room");
}

#[tokio::test]
async fn no_call_waits_longer_than_the_process_may() {
    let asker = Asker::start().await;
    let bed = asker.bed();
    let parked = &bed.gateway.estate.parked;
    let call = asked(&bed, "anna").await;
    let serial = parked.park(&bed.gateway, ticket(), &ParkedRules::default(), call).unwrap();
    bed.gateway.drain.advance(Phase::Expired);
    asker.server.hears("notifications/cancelled").await;
    assert!(refused(&bed, serial, &ticket()).await);
}
