//! The terminal that is written to.

use std::io::{IsTerminal as _, Write as _};

use crate::text::Style;

/// Characters of a line where nobody can tell.
const WIDTH: usize = 100;

/// Whether there is a terminal to draw on again and again.
pub(crate) fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Its style, and its number of lines.
pub(crate) fn style() -> (Style, usize) {
    if !is_terminal() {
        return (Style { width: WIDTH, rich: false }, usize::MAX);
    }
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let width = size.map_or(0, |size| usize::from(size.ws_col));
    let rows = size.map_or(0, |size| usize::from(size.ws_row));
    // https://no-color.org
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let rich = !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    let style = Style { width: if width == 0 { WIDTH } else { width }, rich };
    (style, if rows == 0 { usize::MAX } else { rows })
}

/// Writes text once.
pub(crate) fn write(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes a page over the one before, without a flicker: each line is cleared to its end, then what is below.
pub(crate) fn redraw(text: &str) -> std::io::Result<()> {
    let lines = text.replace('\n', "\x1b[K\n");
    write(&format!("\x1b[H{lines}\x1b[J"))
}

/// A screen of its own, so that what was there before comes back in the end.
pub(crate) struct Alternate;

impl Alternate {
    pub(crate) fn enter() -> std::io::Result<Alternate> {
        write("\x1b[?1049h\x1b[?25l")?;
        Ok(Alternate)
    }
}

impl Drop for Alternate {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing restored.
        write("\x1b[?25h\x1b[?1049l").ok();
    }
}
