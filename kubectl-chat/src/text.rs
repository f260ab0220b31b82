//! Text for a terminal: pieces with a tone, lines that fit a width, bars and spans of time. No I/O.

use std::fmt::Write as _;

use jiff::Timestamp;

/// How a page may look.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Style {
    /// Characters of a line.
    pub(crate) width: usize,
    /// Whether there are colours, and signs beyond ASCII.
    pub(crate) rich: bool,
}

/// What a piece of text means; a colour where there are any.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Tone {
    Plain,
    Strong,
    Good,
    Warning,
    Bad,
    Quiet,
}

impl Tone {
    fn code(self) -> Option<&'static str> {
        match self {
            Tone::Plain => None,
            Tone::Strong => Some("1"),
            Tone::Good => Some("32"),
            Tone::Warning => Some("33"),
            Tone::Bad => Some("31"),
            Tone::Quiet => Some("2"),
        }
    }
}

/// Lines in the making.
pub(crate) struct Page {
    pub(crate) style: Style,
    text: String,
}

impl Page {
    pub(crate) fn new(style: Style) -> Page {
        Page { style, text: String::new() }
    }

    pub(crate) fn into_text(self) -> String {
        self.text
    }

    /// One line; what does not fit the width is cut off.
    pub(crate) fn line(&mut self, pieces: &[(Tone, &str)]) {
        let mut left = self.style.width;
        let mut line = String::new();
        for (tone, text) in pieces {
            let shown: String = text.chars().take(left).collect();
            left -= shown.chars().count();
            self.paint(&mut line, *tone, &shown);
        }
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn paint(&self, line: &mut String, tone: Tone, text: &str) {
        match tone.code().filter(|_| self.style.rich && !text.trim().is_empty()) {
            // Writing to a string does not fail.
            Some(code) => write!(line, "\x1b[{code}m{text}\x1b[0m").unwrap_or_default(),
            None => line.push_str(text),
        }
    }

    pub(crate) fn blank(&mut self) {
        self.text.push('\n');
    }

    pub(crate) fn title(&mut self, text: &str) {
        self.paragraph(0, Tone::Strong, text);
    }

    /// A paragraph: as many lines as it needs, each with this indent.
    pub(crate) fn paragraph(&mut self, indent: usize, tone: Tone, text: &str) {
        for line in wrap(text, self.style.width.saturating_sub(indent)) {
            self.line(&[(Tone::Plain, " ".repeat(indent).as_str()), (tone, line.as_str())]);
        }
    }

    /// A label and a paragraph beside it.
    pub(crate) fn labelled(&mut self, label: &[(Tone, &str)], indent: usize, text: &str) {
        let mut lines = wrap(text, self.style.width.saturating_sub(indent)).into_iter();
        let first = lines.next().unwrap_or_default();
        let used: usize = label.iter().map(|(_, text)| text.chars().count()).sum();
        let gap = " ".repeat(indent.saturating_sub(used));
        let mut pieces = label.to_vec();
        pieces.extend([(Tone::Plain, gap.as_str()), (Tone::Plain, first.as_str())]);
        self.line(&pieces);
        for line in lines {
            self.line(&[(Tone::Plain, " ".repeat(indent).as_str()), (Tone::Plain, &line)]);
        }
    }

    /// A bar of `part` in `all`.
    pub(crate) fn bar(&self, part: i64, all: i64) -> String {
        let cells = (self.style.width / 3).clamp(8, 32);
        let share = if all <= 0 { 0.0 } else { (part as f64 / all as f64).clamp(0.0, 1.0) };
        let full = (share * cells as f64) as usize;
        let (on, off) = if self.style.rich { ("█", "░") } else { ("#", "-") };
        format!("{}{}", on.repeat(full), off.repeat(cells - full))
    }
}

/// Words in lines of at most `width` characters; a longer word has a line of its own.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A number of things.
pub(crate) fn count(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

/// A span of time in its two largest units.
pub(crate) fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// How long ago a time was.
pub(crate) fn since(time: Timestamp, now: Timestamp) -> String {
    span(now.as_second() - time.as_second())
}

/// How long it is until a time, or how long ago it was.
pub(crate) fn until(time: Timestamp, now: Timestamp) -> String {
    match time.as_second() - now.as_second() {
        seconds if seconds >= 0 => format!("in {}", span(seconds)),
        seconds => format!("{} ago", span(-seconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_the_width_and_words_stay_whole() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("a verylongword b", 4), ["a", "verylongword", "b"]);
        let mut page = Page::new(Style { width: 6, rich: true });
        page.line(&[(Tone::Plain, "abcd"), (Tone::Bad, "efgh")]);
        assert_eq!(page.into_text(), "abcd\x1b[31mef\x1b[0m\n");
    }

    #[test]
    fn bars_are_never_longer_than_they_should_be() {
        let page = Page::new(Style { width: 24, rich: false });
        assert_eq!(page.bar(0, 0), "--------");
        assert_eq!(page.bar(1, 2), "####----");
        assert_eq!(page.bar(9, 2), "########");
        assert_eq!(page.bar(-1, 2), "--------");
    }

    #[test]
    fn spans_have_two_units() {
        assert_eq!([59, 61, 3661, 90_000, -5].map(span), ["59s", "1m 1s", "1h 1m", "1d 1h", "0s"]);
    }
}
