//! What a command shows while it works: a line for each thing that is done and, on a terminal, one
//! moving line for what is under way.

use std::io::{IsTerminal, Write};
use std::time::Duration;

/// How often the moving line is drawn anew.
pub(super) const BEAT: Duration = Duration::from_millis(100);

/// Characters of the moving line, so that it never wraps.
const MAX_COLUMNS: usize = 78;

const WHEEL: [char; 4] = ['|', '/', '-', '\\'];

/// Standard output or standard error of a command.
pub(super) struct Screen {
    out: Box<dyn Write + Send>,
    live: bool,
    drawn: bool,
    turn: usize,
}

impl Screen {
    /// Where the answer of a command goes.
    pub(super) fn stdout() -> Screen {
        let out = std::io::stdout();
        Screen::new(out.is_terminal() && moves(), Box::new(out))
    }

    /// Where progress goes when standard output is for something else.
    pub(super) fn stderr() -> Screen {
        let out = std::io::stderr();
        Screen::new(out.is_terminal() && moves(), Box::new(out))
    }

    /// A screen on `out`; `live` if it is a terminal that can draw a line anew.
    pub(super) fn new(live: bool, out: Box<dyn Write + Send>) -> Screen {
        Screen { out, live, drawn: false, turn: 0 }
    }

    /// Writes lines that stay. The text is ours, or went through [`portunus_base::text`].
    pub(super) fn line(&mut self, text: &str) {
        self.wipe();
        self.write(&format!("{text}\n"));
    }

    /// Draws what is under way; nothing where lines cannot move.
    pub(super) fn moving(&mut self, text: &str) {
        if !self.live {
            return;
        }
        self.turn += 1;
        let wheel = WHEEL[self.turn % WHEEL.len()];
        let text: String = text.chars().take(MAX_COLUMNS - 2).collect();
        self.write(&format!("\r\x1b[2K{wheel} {text}"));
        self.drawn = true;
    }

    /// Takes the moving line away.
    pub(super) fn wipe(&mut self) {
        if self.drawn {
            self.write("\r\x1b[2K");
            self.drawn = false;
        }
    }

    /// A reader that left is no failure of the command.
    fn write(&mut self, text: &str) {
        self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()).ok();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.wipe();
    }
}

fn moves() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn drawn(live: bool) -> String {
        let sink = Sink::default();
        let mut screen = Screen::new(live, Box::new(sink.clone()));
        screen.moving(&"connect ".repeat(40));
        screen.line("done");
        drop(screen);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_moving_line_goes_before_a_line_that_stays() {
        let text = drawn(true);
        let (moving, rest) = text.split_at(text.rfind("\r\x1b[2K").unwrap());
        assert!(moving.starts_with("\r\x1b[2K/ connect") && moving.len() < 90, "{moving:?}");
        assert_eq!(rest, "\r\x1b[2Kdone\n");
    }

    #[test]
    fn a_pipe_gets_plain_lines_only() {
        assert_eq!(drawn(false), "done\n");
    }
}
