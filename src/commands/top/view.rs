//! A snapshot as lines of a width.

use std::cmp::Reverse;

use tollgate::top::{Counted, NearLimit, Row, Snapshot};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::terminal::Key;

/// What there is to show.
pub(super) struct Seen {
    /// Which agent.
    pub(super) admin: String,
    /// The last that it said.
    pub(super) snapshot: Snapshot,
    /// Why it says nothing.
    pub(super) away: Option<String>,
}

/// One line of the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) tone: Tone,
}

/// How a line looks. The text says the same without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Bar,
    Head,
    Close,
    Spent,
}

/// Which page, in which order, from which row on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct View {
    page: Page,
    order: Order,
    first: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Page {
    #[default]
    Users,
    Groups,
    Rules,
    Limits,
    Near,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Order {
    #[default]
    Requests,
    Refused,
    Throttled,
    Failed,
    Name,
}

const PAGES: [(Page, &str, &str); 5] = [
    (Page::Users, "users", "USER"),
    (Page::Groups, "groups", "GROUP"),
    (Page::Rules, "rules", "RULE"),
    (Page::Limits, "limits", "LIMIT"),
    (Page::Near, "near a limit", "WHO"),
];

const ORDERS: [(Order, &str); 5] = [
    (Order::Requests, "requests"),
    (Order::Refused, "refused"),
    (Order::Throttled, "throttled"),
    (Order::Failed, "failed"),
    (Order::Name, "name"),
];

impl View {
    pub(super) fn press(&mut self, key: Key) {
        let page = PAGES.iter().position(|(page, ..)| *page == self.page).unwrap_or(0);
        let mut turn = |to: usize| {
            if let Some((page, ..)) = PAGES.get(to) {
                (self.page, self.first) = (*page, 0);
            }
        };
        match key {
            Key::NextPage => turn((page + 1) % PAGES.len()),
            Key::PreviousPage => turn((page + PAGES.len() - 1) % PAGES.len()),
            Key::Page(to) => turn(to),
            Key::Sort => {
                let order = ORDERS.iter().position(|(order, _)| *order == self.order).unwrap_or(0);
                (self.order, self.first) = (ORDERS[(order + 1) % ORDERS.len()].0, 0);
            }
            Key::Down => self.first += 1,
            Key::Up => self.first = self.first.saturating_sub(1),
            Key::Quit => {}
        }
    }
}

/// The whole screen: never wider nor higher than it is.
pub(super) fn screen(seen: &Seen, view: &mut View, width: usize, height: usize) -> Vec<Line> {
    let snapshot = &seen.snapshot;
    let mut lines = vec![title(seen, width), totals(snapshot)];
    if let Some(away) = &seen.away {
        let text = format!("! the agent is away: {away}. Trying again each second; below is the last that it said");
        lines.push(Line { text, tone: Tone::Spent });
    } else if snapshot.windows[0].covered_ms < SOON_MS {
        lines.push(plain("The agent has just begun to look: counts are of the last moments only"));
    } else {
        lines.push(plain(""));
    }
    lines.push(tabs(view));
    let (head, rows) = page(snapshot, view.page, view.order, width);
    lines.extend(head);
    // The last line is for the keys.
    let room = height.saturating_sub(lines.len() + 1);
    view.first = view.first.min(rows.len().saturating_sub(room));
    let shown: Vec<_> = rows.iter().skip(view.first).take(room).cloned().collect();
    let below = rows.len() - view.first - shown.len();
    lines.extend(shown);
    while lines.len() + 1 < height {
        lines.push(plain(""));
    }
    let mark = if view.page == Page::Near { "nothing left" } else { "throttled" };
    let mut keys = format!("tab/arrows page   s order   up/down scroll   q quit   ! {mark}");
    if below > 0 || view.first > 0 {
        keys += &format!("   {} above {below} below", view.first);
    }
    lines.push(Line { text: pad(&keys, width), tone: Tone::Bar });
    lines.truncate(height);
    for line in &mut lines {
        line.text = cut(&line.text, width);
    }
    lines
}

/// Every page with its first rows, for a file or a pipe.
pub(super) fn pages(seen: &Seen, width: usize) -> Vec<Line> {
    let mut lines = vec![plain(title(seen, width).text.trim_end()), totals(&seen.snapshot)];
    for (page_of, ..) in PAGES {
        let (head, rows) = page(&seen.snapshot, page_of, Order::Requests, width);
        lines.push(plain(""));
        lines.extend(head);
        let more = rows.len().saturating_sub(PRINTED_MAX);
        lines.extend(rows.into_iter().take(PRINTED_MAX));
        if more > 0 {
            lines.push(plain(&format!("  and {more} more; --json has them all")));
        }
    }
    for line in &mut lines {
        line.text = cut(&line.text, width).trim_end().to_owned();
    }
    lines
}

fn title(seen: &Seen, width: usize) -> Line {
    let covered_s = seen.snapshot.windows[1].covered_ms / 1000;
    let text = format!(
        "tollgate top   {}   watched for {}",
        seen.admin,
        match covered_s {
            0..60 => format!("{covered_s} s"),
            _ => "a minute and more".to_owned(),
        }
    );
    Line { text: pad(&text, width), tone: Tone::Bar }
}

fn totals(snapshot: &Snapshot) -> Line {
    let rates = rates(snapshot, &snapshot.total, 0);
    let [requests, refused, throttled, failed] = rates.map(|rate| if rate == NONE { "0".to_owned() } else { rate });
    plain(&format!("a second: {requests} requests, {refused} refused, {throttled} throttled, {failed} failed"))
}

fn tabs(view: &View) -> Line {
    let mut text = String::new();
    for (number, (page, name, _)) in (1..).zip(PAGES) {
        text += &if page == view.page { format!("[{number} {name}] ") } else { format!(" {number} {name}  ") };
    }
    let order = ORDERS.iter().find(|(order, _)| *order == view.order).map_or("", |(_, name)| *name);
    let order = if view.page == Page::Near { "least left" } else { order };
    text += &format!("  by {order}");
    plain(&text)
}

/// The head of a page, and its rows.
fn page(snapshot: &Snapshot, page: Page, order: Order, width: usize) -> (Vec<Line>, Vec<Line>) {
    let name = PAGES.iter().find(|(of, ..)| *of == page).map_or("", |(_, _, name)| *name);
    let names = match page {
        Page::Users => &snapshot.users,
        Page::Groups => &snapshot.groups,
        Page::Rules => &snapshot.rules,
        Page::Limits => &snapshot.limits,
        Page::Near => return near(&snapshot.near, name, width),
    };
    let mut rows: Vec<&Row> = names.rows.iter().collect();
    let by = |counts: [u64; 2]| Reverse((counts[0], counts[1]));
    match order {
        Order::Requests => rows.sort_by_key(|row| by(row.counted.requests)),
        Order::Refused => rows.sort_by_key(|row| by(row.counted.refused)),
        Order::Throttled => rows.sort_by_key(|row| by(row.counted.throttled)),
        Order::Failed => rows.sort_by_key(|row| by(row.counted.failed)),
        Order::Name => rows.sort_by(|one, two| one.name.cmp(&two.name)),
    }
    let windows = if width >= WIDE { 2 } else { 1 };
    let columns = windows * (COUNTS.len() * COUNT_WIDTH + GAP);
    let name_width = width.saturating_sub(columns).max(NAME_WIDTH_MIN);
    let mut above = pad("", name_width);
    let mut head = pad(&format!("  {name}"), name_width);
    for window in &snapshot.windows[..windows] {
        let about = format!("-- a second, of the last {} s ", window.s);
        above += &" ".repeat(GAP);
        above += &format!("{about:-<width$}", width = COUNTS.len() * COUNT_WIDTH);
        head += &" ".repeat(GAP);
        COUNTS.iter().for_each(|count| head += &format!("{count:>COUNT_WIDTH$}"));
    }
    let line = |row: &Row| {
        let is_throttled = row.counted.throttled[0] > 0;
        let mark = if is_throttled { "! " } else { "  " };
        let mut text = pad(&format!("{mark}{}", cut(&row.name, name_width - 3)), name_width);
        for place in 0..windows {
            text += &" ".repeat(GAP);
            rates(snapshot, &row.counted, place).iter().for_each(|rate| text += &format!("{rate:>COUNT_WIDTH$}"));
        }
        Line { text, tone: if is_throttled { Tone::Close } else { Tone::Plain } }
    };
    let mut lines: Vec<_> = rows.into_iter().map(line).collect();
    if names.replaced > 0 {
        let text = format!("  others made room for these {} times: who asks little is not here", names.replaced);
        lines.push(plain(&text));
    }
    (vec![plain(&above), Line { text: head, tone: Tone::Head }], lines)
}

fn near(rows: &[NearLimit], name: &str, width: usize) -> (Vec<Line>, Vec<Line>) {
    let bar = if width >= WIDE { BAR_WIDTH + GAP } else { 0 };
    let numbers = 9 + 9 + 6 + 9 + 7 + bar;
    let rest = width.saturating_sub(numbers).max(2 * NAME_WIDTH_MIN);
    let limit_width = rest / 3;
    let who_width = rest - limit_width;
    let columns = |who: &str, limit: &str, [left, of, share, whole, seen]: [&str; 5], bar: &str| {
        let who = pad(&cut(who, who_width - 1), who_width);
        let limit = pad(&cut(limit, limit_width - 1), limit_width);
        format!("{who}{limit}{left:>9}{of:>9}{share:>6}{whole:>9}{seen:>7}{bar}")
    };
    let head = columns(
        &format!("  {name}"),
        "LIMIT",
        ["LEFT", "OF", "LEFT", "WHOLE IN", "SEEN"],
        if bar > 0 { "  USED" } else { "" },
    );
    let line = |row: &NearLimit| {
        let share = u128::from(row.remaining) * 100 / u128::from(row.of.max(1));
        let share = usize::try_from(share).map_or(100, |share| share.min(100));
        let tone = match row.remaining {
            0 => Tone::Spent,
            _ if share < 10 => Tone::Close,
            _ => Tone::Plain,
        };
        let mark = if row.remaining == 0 { "! " } else { "  " };
        let used = (100 - share) * BAR_WIDTH / 100;
        let drawn = format!("  {:.<BAR_WIDTH$}", "#".repeat(used));
        let numbers = [
            row.remaining.to_string(),
            row.of.to_string(),
            format!("{share}%"),
            format!("{} s", row.whole_in_s),
            format!("{} s", row.seen_s),
        ];
        let who = format!("{mark}{}", row.who);
        let text = columns(&who, &row.limit, numbers.each_ref().map(|n| &**n), if bar > 0 { &drawn } else { "" });
        Line { text, tone }
    };
    (vec![plain(""), Line { text: head, tone: Tone::Head }], rows.iter().map(line).collect())
}

/// Each count of a window, a second: one decimal below a hundred.
fn rates(snapshot: &Snapshot, counted: &Counted, place: usize) -> [String; 4] {
    // A window that has only just begun is no basis for a rate.
    let covered_ms = snapshot.windows[place].covered_ms.max(1000);
    [counted.requests, counted.refused, counted.throttled, counted.failed].map(|counts| {
        let tenths = u128::from(counts[place]) * 10_000 / u128::from(covered_ms);
        match (counts[place], tenths) {
            (0, _) => NONE.to_owned(),
            // Some, but fewer than one in ten seconds.
            (_, 0) => "<0.1".to_owned(),
            (_, 1..1000) => format!("{}.{}", tenths / 10, tenths % 10),
            _ => (tenths / 10).to_string(),
        }
    })
}

fn plain(text: &str) -> Line {
    Line { text: text.to_owned(), tone: Tone::Plain }
}

/// At most `width` columns of it.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut cut = String::new();
    let mut left = width.saturating_sub(1);
    for c in text.chars() {
        let columns = c.width().unwrap_or(0);
        if columns > left {
            break;
        }
        left -= columns;
        cut.push(c);
    }
    if width > 0 { cut + "~" } else { cut }
}

/// At least `width` columns.
fn pad(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(text.width())))
}

const COUNTS: [&str; 4] = ["requests", "refused", "throttled", "failed"];
const COUNT_WIDTH: usize = 10;
const GAP: usize = 2;

/// Both windows fit beside a name of some thirty columns from here on.
const WIDE: usize = 110;
const NAME_WIDTH_MIN: usize = 12;
const BAR_WIDTH: usize = 20;

/// Nothing at all: a zero in each column would hide the numbers.
const NONE: &str = "-";

/// Rows of each page where all of them are printed.
const PRINTED_MAX: usize = 10;

/// Before that, a count says little.
const SOON_MS: u64 = 3000;

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate::top::{Names, Window};

    fn counted(requests: u64, throttled: u64) -> Counted {
        Counted { requests: [requests, 6 * requests], throttled: [throttled; 2], ..Counted::default() }
    }

    fn seen() -> Seen {
        let row =
            |name: &str, requests, throttled| Row { name: name.to_owned(), counted: counted(requests, throttled) };
        let users = vec![
            row("acme:alice", 12_345, 0),
            row("acme:bob", 20, 7),
            row("acme:日本語のとても長い名前".repeat(4).as_str(), 3, 0),
        ];
        let near = [("acme:bob", 0), ("acme:alice", 7), ("acme:carol", 60)].map(|(who, remaining)| NearLimit {
            limit: "per-user".to_owned(),
            who: who.to_owned(),
            remaining,
            of: 100,
            whole_in_s: 60,
            seen_s: 1,
        });
        let snapshot = Snapshot {
            windows: [Window { s: 10, covered_ms: 10_000 }, Window { s: 60, covered_ms: 60_000 }],
            total: counted(12_368, 7),
            users: Names { rows: users, replaced: 0 },
            near: near.to_vec(),
            ..Snapshot::default()
        };
        Seen { admin: "tcp:127.0.0.1:9003".to_owned(), snapshot, away: None }
    }

    #[test]
    fn a_screen_is_never_wider_nor_higher_than_it_is() {
        for page in 0..PAGES.len() {
            for (width, height) in
                [(0, 0), (1, 1), (20, 5), (40, 10), (80, 24), (109, 24), (110, 24), (120, 40), (400, 200)]
            {
                let mut view = View::default();
                view.press(Key::Page(page));
                (0..100).for_each(|_| view.press(Key::Down));
                let mut seen = seen();
                seen.away = (page == 2).then(|| "connection refused ".repeat(20));
                let lines = screen(&seen, &mut view, width, height);
                assert_eq!(lines.len(), height, "{width}x{height}");
                let widest = lines.iter().map(|line| line.text.width()).max().unwrap_or(0);
                assert!(widest <= width, "{widest} in {width}");
            }
        }
    }

    #[test]
    fn rows_say_without_colour_who_is_throttled_and_what_is_left() {
        for (width, expected) in [
            (80, format!("{:<40}       2.0         -       0.7         -", "! acme:bob")),
            (
                120,
                format!(
                    "{:<38}       2.0         -       0.7         -         2.0         -       0.1         -",
                    "! acme:bob"
                ),
            ),
        ] {
            let lines = screen(&seen(), &mut View::default(), width, 24);
            assert!(lines.iter().any(|line| line.text == expected), "{lines:#?}");
        }
        let mut view = View::default();
        view.press(Key::PreviousPage);
        let lines = screen(&seen(), &mut view, 80, 24);
        let texts: Vec<_> = lines.iter().map(|line| (&*line.text, line.tone)).collect();
        for (who, left, tone) in [
            ("! acme:bob", "      0      100    0%     60 s    1 s", Tone::Spent),
            ("  acme:alice", "      7      100    7%     60 s    1 s", Tone::Close),
            ("  acme:carol", "     60      100   60%     60 s    1 s", Tone::Plain),
        ] {
            let expected = format!("{who:<27}{:<15}{left}", "per-user");
            assert!(texts.contains(&(&*expected, tone)), "{expected}\n{texts:#?}");
        }
    }

    #[test]
    fn another_order_and_an_agent_that_is_away_are_seen() {
        let first = |view: &mut View| {
            let lines = screen(&seen(), view, 80, 24);
            lines.into_iter().map(|line| line.text).find(|text| text.contains("acme:")).unwrap()
        };
        let mut view = View::default();
        assert!(first(&mut view).contains("alice"));
        view.press(Key::Sort);
        view.press(Key::Sort);
        assert!(first(&mut view).contains("bob"), "by throttled");
        let away = Seen { away: Some("cannot connect: refused".to_owned()), ..seen() };
        let lines = screen(&away, &mut view, 100, 24);
        assert!(lines.iter().any(|line| line.text.contains("away: cannot connect: refused")), "{lines:#?}");
        assert!(lines.iter().any(|line| line.text.contains("acme:alice")), "the last that it said stays");
    }

    #[test]
    fn rates_are_readable_at_any_size() {
        let seen = seen();
        for (count, expected) in
            [(0, "-"), (1, "0.1"), (999, "99.9"), (1000, "100"), (12_345, "1234"), (u64::MAX, "1844674407370955161")]
        {
            assert_eq!(rates(&seen.snapshot, &counted(0, count), 0)[2], expected);
        }
        assert_eq!(rates(&seen.snapshot, &counted(0, 1), 1)[2], "<0.1");
    }
}
