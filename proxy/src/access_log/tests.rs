use super::*;
use std::sync::Barrier;

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("portunus-access-{}-{name}.log", std::process::id()))
}

#[test]
fn every_line_is_on_disk_after_close() {
    let path = path("close");
    let metrics = Arc::new(Metrics::new().unwrap());
    let sink = Sink::open(&AccessLog::File(path.clone()), metrics).unwrap();
    for index in 0..1000 {
        sink.write(format!("{{\"n\":{index}}}"));
    }
    sink.close();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(text.lines().count(), 1000);
    assert_eq!(text.lines().last(), Some("{\"n\":999}"));
}

#[test]
fn lines_behind_a_reopening_go_to_the_new_file_and_none_is_lost() {
    let (path, moved) = (path("rotated"), path("rotated-1"));
    let sink = Sink::open(&AccessLog::File(path.clone()), Arc::new(Metrics::new().unwrap())).unwrap();
    sink.write("before".to_owned());
    std::fs::rename(&path, &moved).unwrap();
    sink.reopen();
    sink.write("behind".to_owned());
    sink.close();
    let texts = [&moved, &path].map(|path| std::fs::read_to_string(path).unwrap());
    for path in [path, moved] {
        std::fs::remove_file(path).unwrap();
    }
    // The line before may still have waited when the flag was seen.
    assert_eq!(texts.concat(), "before\nbehind\n");
    assert!(texts[1].ends_with("behind\n"), "{texts:?}");
}

/// Takes so many bytes at once, and none while it is full.
struct Disk {
    taken: Arc<Mutex<Vec<u8>>>,
    room: Arc<Mutex<usize>>,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut room = self.room.lock().unwrap();
        let taken = bytes.len().min(*room);
        if taken == 0 && !bytes.is_empty() {
            return Err(ErrorKind::StorageFull.into());
        }
        *room -= taken;
        self.taken.lock().unwrap().extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_a_full_disk_does_not_take_is_counted_and_no_line_is_torn() {
    let metrics = Arc::new(Metrics::new().unwrap());
    let lost = Arc::new(Lost {
        metrics: Arc::clone(&metrics),
        complaint: Complaint::default(),
        error: Mutex::default(),
    });
    let (taken, room) = (Arc::<Mutex<Vec<u8>>>::default(), Arc::new(Mutex::new(7)));
    let output = Box::new(Disk { taken: Arc::clone(&taken), room: Arc::clone(&room) });
    let (block, lost_here) = (Vec::new(), Arc::clone(&lost));
    let mut writer = Writer {
        output,
        path: None,
        block,
        lines: 0,
        is_begun: false,
        lost: lost_here,
        reopen: Arc::default(),
    };
    let mut write = |lines: &[&str]| {
        for line in lines {
            writer.block.extend_from_slice(line.as_bytes());
            writer.lines += 1;
        }
        writer.flush();
    };
    write(&["one\n", "two-and\n", "three\n"]);
    assert_eq!(metrics.records_dropped.get(), 1, "the second was begun");
    write(&["four\n"]);
    assert_eq!(metrics.records_dropped.get(), 2);
    *room.lock().unwrap() = 1_000;
    write(&["five\n"]);
    assert_eq!(String::from_utf8(taken.lock().unwrap().clone()).unwrap(), "one\ntwo-and\nfive\n");
    assert_eq!((metrics.records_dropped.get(), lost.complaint.due(Instant::now())), (2, Some(2)));
}

#[test]
fn a_full_queue_and_a_closed_log_count_their_lines() {
    let metrics = Arc::new(Metrics::new().unwrap());
    let (held, lost) = (Arc::new(Barrier::new(2)), Complaint::default());
    let lost = Arc::new(Lost { metrics: Arc::clone(&metrics), complaint: lost, error: Mutex::default() });
    let (sender, receiver) = sync_channel(1);
    let until = Arc::clone(&held);
    let writer = Writing::start(move || {
        until.wait();
        drop(receiver);
    });
    let sink = Sink {
        queue: RwLock::new(Some(sender)),
        writer: Mutex::new(Some(writer.unwrap())),
        lost,
        reopen: Arc::default(),
        enabled: true,
    };
    sink.write("taken".to_owned());
    sink.write("too many".to_owned());
    assert_eq!(metrics.records_dropped.get(), 1);
    held.wait();
    sink.close();
    sink.write("too late".to_owned());
    assert_eq!(metrics.records_dropped.get(), 2);
}

#[test]
fn a_reader_that_stalls_does_not_keep_the_process() {
    let metrics = Arc::new(Metrics::new().unwrap());
    let lost = Arc::new(Lost { metrics, complaint: Complaint::default(), error: Mutex::default() });
    let stalled = Arc::new(Barrier::new(2));
    let until = Arc::clone(&stalled);
    let writer = Writing::start(move || {
        until.wait();
    })
    .unwrap();
    let (queue, writer) = (RwLock::default(), Mutex::new(Some(writer)));
    let sink = Sink { queue, writer, lost, reopen: Arc::default(), enabled: true };
    sink.close_within(Duration::from_millis(1));
    assert_eq!(Arc::strong_count(&stalled), 2, "its thread is still at it");
    stalled.wait();
}
