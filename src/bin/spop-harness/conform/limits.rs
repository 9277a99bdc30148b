//! What an ACK may hold, so that every HAProxy can take it.

use tollgate::spop::{Action, TypedData, ack};

use super::case::{Case, Flaw, Level, Seen, failed, skipped};
use super::lab::{Lab, PADDING};
use super::wire::{self, CAPABILITIES, ENGINE_ID, VERSIONS};
use crate::peer::Received;

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<_> = [256u32, 1024, wire::FRAME_BYTES]
        .into_iter()
        .map(|offered| {
            Case::new(
                format!("ack/at-most-{offered}-bytes"),
                "3.2",
                Level::Spec,
                "an ACK no larger than agreed on",
                async move |lab: Lab| {
                    let (acks, size) = acks_at(&lab, offered).await?;
                    let largest = acks.iter().map(|ack| ack.0.len()).max().unwrap_or(0);
                    let seen = format!("{largest} bytes of {size}");
                    if largest <= size as usize { Ok(seen) } else { failed(seen) }
                },
            )
        })
        .collect();
    cases.push(Case::new(
        "ack/below-the-frame-size",
        "3.2",
        Level::Haproxy("3.1 and later block for good at exactly that"),
        "an ACK smaller than agreed on",
        async |lab: Lab| {
            let (acks, size) = acks_at(&lab, 256).await?;
            let largest = acks.iter().map(|ack| ack.0.len()).max().unwrap_or(0);
            let seen = format!("{largest} bytes of {size}");
            if largest < size as usize { Ok(seen) } else { failed(seen) }
        },
    ));
    for offered in [1024, wire::FRAME_BYTES, 32_764] {
        cases.push(Case::new(
            format!("ack/20-fit-a-buffer-at-{offered}"),
            "3.2.1",
            Level::Haproxy("3.1 and later block for good"),
            "20 x (4 + ACK) below size + 4, or no pipelining",
            async move |lab: Lab| {
                let size = ("max-frame-size", TypedData::UInt32(offered));
                let (_, hello) = lab.greeted_by(&[VERSIONS, size, CAPABILITIES, ENGINE_ID]).await?;
                if !super::lab::announced_in(&hello)?.pipelining {
                    return Ok("no pipelining".to_owned());
                }
                let (acks, _) = acks_at(&lab, offered).await?;
                let largest = acks.iter().map(|ack| ack.0.len()).max().unwrap_or(0);
                // What HAProxy's buffer holds: it offers its size less the prefix.
                let buffer = offered as usize + 4;
                let seen = format!("20 x (4 + {largest}) of {buffer}");
                if 20 * (4 + largest) < buffer { Ok(seen) } else { failed(seen) }
            },
        ));
    }
    cases.extend([
        looked_at("never-empty", Level::Haproxy("3.1.0 waits for its timeout"), "one action at least", |ack| {
            let payload = payload(ack);
            if payload.is_empty() { failed("an empty list") } else { Ok(format!("{} bytes of actions", payload.len())) }
        }),
        looked_at("actions-decode", Level::Spec, "set-var and unset-var", |ack| match ack::decode(&payload(ack)) {
            Ok(actions) => Ok(format!("{} actions", actions.len())),
            Err(error) => failed(format!("they do not decode: {error}")),
        }),
        looked_at("scopes-are-known", Level::Spec, "scopes 0 to 4", |ack| match ack::decode(&payload(ack)) {
            Err(error @ tollgate::spop::DecodeError::UnknownScope(_)) => failed(error.to_string()),
            // What else does not decode has its own case.
            _ => Ok("scopes 0 to 4".to_owned()),
        }),
        looked_at("no-process-scope", Level::Advice, "no variable of scope proc", |ack| {
            // Only HAProxy's configuration can create one: what is set otherwise is lost without a word.
            each_action(ack, |scope, name| match scope {
                tollgate::spop::Scope::Process => Some(format!("proc.{name}")),
                _ => None,
            })
        }),
        looked_at(
            "names-fit-63-bytes",
            Level::Haproxy("up to 3.2.22 and 3.4.3 read past a buffer"),
            "names of 1 to 63 bytes",
            |ack| {
                each_action(ack, |_, name| {
                    (!(1..=63).contains(&name.len())).then(|| format!("a name of {} bytes", name.len()))
                })
            },
        ),
        looked_at(
            "names-of-right-characters",
            Level::Haproxy("every version drops others"),
            "letters, digits, _ and .",
            |ack| {
                let right = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
                each_action(ack, move |_, name| (!name.chars().all(right)).then(|| format!("{name:?}")))
            },
        ),
        looked_at("no-names-with-a-scope", Level::Advice, "names without txn. or the like", |ack| {
            each_action(ack, |_, name| {
                let doubled = ["proc.", "sess.", "txn.", "req.", "res."].iter().any(|scope| name.starts_with(scope));
                doubled.then(|| name.to_owned())
            })
        }),
    ]);
    cases.push(Case::new(
        "ack/same-question-same-variables",
        "3.4",
        Level::Advice,
        "the same names each time",
        async |lab: Lab| {
            let mut conversation = lab.greeted().await?;
            let (one, other) = (conversation.ask(&lab, 1, 1).await?, conversation.ask(&lab, 3, 1).await?);
            let (one, other) = (names(&one)?, names(&other)?);
            if one == other { Ok(format!("{} names", one.len())) } else { failed(format!("{one:?}, then {other:?}")) }
        },
    ));
    cases
}

/// The ACKs of an ordinary question, of one as large as the frame lets it, and of one that the agent does not know
/// where it answers that: whether it does has its own case.
async fn acks_at(lab: &Lab, offered: u32) -> Result<(Vec<Received>, u32), Flaw> {
    let (mut conversation, size) = lab.greeted_with_size(offered).await?;
    let room = (size as usize).min(offered as usize);
    let payload = lab.payload();
    let padding = room.saturating_sub(payload.len() + 7 + PADDING.len() + 5);
    let large = lab.payload_with(&[wire::argument(PADDING, TypedData::Str(&vec![b'x'; padding]))]);
    let unknown = wire::message(b"nobody-knows-it", 0, b"");
    let mut acks = Vec::new();
    for payload in [payload, large] {
        let question = wire::notify(1, 1, &payload);
        // A question of the caller's may be too large for the smallest frames.
        if question.len() - 4 <= room {
            conversation.send(&question).await;
            acks.push(conversation.ack_of(1, 1).await?);
        }
    }
    conversation.send(&wire::notify(1, 1, &unknown)).await;
    acks.extend(conversation.ack_of(1, 1).await.ok());
    if acks.is_empty() {
        return skipped(format!("no question fits {room} bytes"));
    }
    Ok((acks, size))
}

/// What must hold for the ACK of the question, and for that of one that the agent does not know where it answers that.
fn looked_at(name: &str, level: Level, expected: &str, look: impl Fn(&Received) -> Seen + 'static) -> Case {
    Case::new(format!("ack/{name}"), "3.4", level, expected, async move |lab: Lab| {
        let mut conversation = lab.greeted().await?;
        let seen = look(&conversation.ask(&lab, 1, 1).await?)?;
        conversation.send(&wire::notify(3, 1, &wire::message(b"nobody-knows-it", 0, b""))).await;
        match conversation.ack_of(3, 1).await {
            Ok(ack) => look(&ack),
            Err(_) => Ok(seen),
        }
    })
}

fn payload(ack: &Received) -> Vec<u8> {
    ack.decode().map(|frame| frame.payload.to_vec()).unwrap_or_default()
}

fn actions(ack: &Received, look: impl FnOnce(&[Action<'_>]) -> Seen) -> Seen {
    match ack::decode(&payload(ack)) {
        Ok(actions) => look(&actions),
        // That has its own case.
        Err(_) => skipped("actions that do not decode"),
    }
}

/// What is wrong with any variable, if something is.
fn each_action(ack: &Received, wrong: impl Fn(tollgate::spop::Scope, &str) -> Option<String>) -> Seen {
    actions(ack, |actions| {
        for action in actions {
            let (Action::SetVar { scope, name, .. } | Action::UnsetVar { scope, name }) = action;
            if let Some(wrong) = wrong(*scope, name) {
                return failed(wrong);
            }
        }
        Ok(format!("{} variables", actions.len()))
    })
}

fn names(ack: &Received) -> Result<Vec<String>, Flaw> {
    let mut all = Vec::new();
    actions(ack, |actions| {
        all.extend(
            actions.iter().map(|(Action::SetVar { name, .. } | Action::UnsetVar { name, .. })| (*name).to_owned()),
        );
        Ok(String::new())
    })?;
    all.sort();
    Ok(all)
}
