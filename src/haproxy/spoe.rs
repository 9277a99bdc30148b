//! `spoe-tollgate.conf`.

use super::timeouts::{self, show};
use super::{Files, Line, Site, origin};
use crate::policy::charge::Cost;

/// Writes it.
pub(super) fn write(site: &Site, line: Line) -> String {
    let later = if line.and_later() { " What a later line ignores says so." } else { "" };
    let about = format!("# The SPOE side of Tollgate, read by the `filter spoe` line of {}.{later}", Files::CFG);
    [&about, "\n#\n", &line.mark(), &origin(site, line), "\n", &agent(site, line), "\n", QUESTION, "\n", &report(site)]
        .concat()
}

fn report(site: &Site) -> String {
    let costs = site.costs.iter().map(|header| format!(" {}=res.fhdr({header})", Cost::argument(header)));
    let args = match costs.collect::<String>() {
        costs if costs.is_empty() => String::new(),
        costs => format!("    args{costs}\n"),
    };
    REPORT.replace("    @costs@\n", &args)
}

fn agent(site: &Site, line: Line) -> String {
    let mut lines = vec![
        "[tollgate]".to_owned(),
        "spoe-agent tollgate".to_owned(),
        "    groups      check report".to_owned(),
        "    option      var-prefix     tollgate".to_owned(),
        "    # Set when HAProxy itself got no answer (1: timeout, 2: no agent up, 3: too big, 256 and up: protocol)."
            .to_owned(),
        "    option      set-on-error   error".to_owned(),
        "    option      dontlog-normal".to_owned(),
    ];
    let mut say = |text: &str| lines.extend(text.lines().map(|line| format!("    {line}")));
    say(if line.has_mux() { CONTINUE } else { CONTINUE_OLD });
    let ignored = if line.and_later() { " Ignored by 3.1+." } else { "" };
    if !line.has_mux() {
        say(&format!(
            "# Without `async` the requests of a broken connection fail at once, not after the whole timeout.{ignored}"
        ));
        say("no option   async");
        say(&format!("# A question too big for one frame fails alone, with 3, and closes nothing.{ignored}"));
        say("no option   send-frag-payload");
    }
    let deadline_ms = site.deadline.as_micros().div_ceil(1000);
    say(&format!(
        "# The agent's own deadline (`spop.deadline`, {deadline_ms} ms) and 210 ms: it answers first, fail-closed, also where TCP had\n\
         # to send a segment again, which it does after 200 ms."
    ));
    let processing = show(timeouts::processing(site.deadline));
    say(&format!("timeout     processing {processing}"));
    if !line.has_mux() {
        let (hello, idle) = (show(timeouts::HELLO), show(timeouts::IDLE));
        if line.and_later() {
            say(&format!("timeout     hello      {hello}       # ignored by 3.1+"));
            say(&format!("timeout     idle       {idle}          # ignored by 3.1+; must exceed `processing`"));
            say("# Ends reconnect storms on 2.8 and 3.0 (per thread and second); no effect on 2.6, ignored by 3.1+.");
        } else {
            say(&format!("timeout     hello      {hello}"));
            say(&format!("timeout     idle       {idle}          # must exceed `processing`"));
            say("# Ends reconnect storms; per thread and second.");
        }
        say("maxconnrate 50");
    }
    say(&format!("use-backend {}", site.backends.own(AGENTS)));
    say("log         global");
    lines.join("\n") + "\n"
}

/// What the agents' backend is called where no policy calls one of its own so.
pub(super) const AGENTS: &str = "tollgate-agents";

const CONTINUE_OLD: &str = "\
# Lets haproxy.cfg ask again where a connection ended. Only there: up to HAProxy 3.0 the questions of one request have
# the same ids, and a late answer to the first would be taken for one to the second.
option      continue-on-error";

const CONTINUE: &str = "\
# Lets haproxy.cfg ask again where a connection ended.
option      continue-on-error";

const QUESTION: &str = include_str!("text/question.conf");
const REPORT: &str = include_str!("text/report.conf");
