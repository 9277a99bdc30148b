//! Peers that are slow, silent or broken, and what others notice of them.

use bytes::BytesMut;
use tokio::time::{Instant, sleep};
use tollgate::spop::frame::{Flags, FrameType};

use super::case::{Case, Level, Seen, failed};
use super::lab::{Conversation, Lab};
use super::wire::{self, CAPABILITIES, ENGINE_ID, SIZE, VERSIONS};
use crate::peer::Heard;

pub fn cases() -> Vec<Case> {
    let mut cases = paces();
    cases.extend(others());
    cases
}

fn paces() -> Vec<Case> {
    vec![
        Case::new("pace/reads-500-answers-late", "3.2.1", Level::Spec, "500 ACKs", async |lab: Lab| {
            let mut conversation = lab.greeted().await?;
            if !lab.announced.pipelining {
                conversation.send(&lab.question(1, 1)).await;
                sleep(lab.quiet * 2).await;
                return conversation.each_once([(1, 1)]).await;
            }
            let questions: Vec<_> = (0..500).map(|stream| lab.question(stream, 1)).collect();
            conversation.send(&questions.concat()).await;
            sleep(lab.quiet * 2).await;
            conversation.each_once((0..500).map(|stream| (stream, 1))).await
        }),
        Case::new(
            "pace/idle-stays-open",
            "3.2.3",
            Level::Haproxy("every version"),
            "ACK after two seconds of silence",
            async |lab: Lab| {
                let mut conversation = lab.greeted().await?;
                sleep(IDLE).await;
                conversation.ask(&lab, 1, 1).await.map(|_| "ACK".to_owned())
            },
        ),
        Case::new(
            "pace/idle-between-questions",
            "3.2.3",
            Level::Haproxy("every version"),
            "an ACK each",
            async |lab: Lab| {
                let mut conversation = lab.greeted().await?;
                for stream in 0..4 {
                    conversation.ask(&lab, stream, 1).await?;
                    sleep(lab.quiet).await;
                }
                Ok("4 ACKs".to_owned())
            },
        ),
        Case::new("pace/half-a-question-waits", "3.2", Level::Spec, "ACK when the rest is there", async |lab: Lab| {
            let mut conversation = lab.greeted().await?;
            let question = lab.question(1, 1);
            let (first, rest) = question.split_at(question.len() / 2);
            conversation.send(first).await;
            let early = conversation.hear_quiet().await;
            if early != Heard::Nothing {
                return failed(format!("{} after half of it", super::lab::words(&early)));
            }
            conversation.send(rest).await;
            conversation.ack_of(1, 1).await.map(|_| "ACK".to_owned())
        }),
        Case::new(
            "pace/hello-is-answered-soon",
            "3.2.4",
            Level::Haproxy("3.1 and later"),
            "AGENT-HELLO within half of --timeout",
            async |lab: Lab| {
                let mut conversation = lab.connect().await?;
                let begun = Instant::now();
                conversation.send(&wire::hello(&[VERSIONS, SIZE, CAPABILITIES, ENGINE_ID])).await;
                conversation.agent_hello().await?;
                let took = begun.elapsed();
                let seen = format!("{} ms", took.as_millis());
                if took <= lab.within / 2 { Ok(seen) } else { failed(seen) }
            },
        ),
    ]
}

/// What one connection does must be nothing to another.
fn others() -> Vec<Case> {
    let beside = |name: &'static str, expected: &str, count: usize, first: fn(&Lab) -> BytesMut| {
        Case::new(format!("others/{name}"), "3.2.3", Level::Spec, expected, async move |lab: Lab| {
            let mut good = lab.greeted().await?;
            let mut bad = Vec::new();
            for _ in 0..count {
                let mut conversation = lab.connect().await?;
                conversation.send(&first(&lab)).await;
                bad.push(conversation);
            }
            served(&mut good, &lab).await
        })
    };
    let errors = |name: &'static str, error: fn(&Lab) -> BytesMut| {
        Case::new(
            format!("others/{name}"),
            "3.2.9",
            Level::Spec,
            "ACKs on the other connection",
            async move |lab: Lab| {
                let (mut good, mut bad) = (lab.greeted().await?, lab.greeted().await?);
                // Both have a question in flight when one breaks.
                good.send(&lab.question(1, 1)).await;
                bad.send(&[lab.question(1, 1), error(&lab)].concat()).await;
                good.ack_of(1, 1).await?;
                bad.hear().await;
                served(&mut good, &lab).await
            },
        )
    };
    vec![
        beside("50-say-nothing", "ACKs on another connection", 50, |_| BytesMut::new()),
        beside("50-say-half-a-hello", "ACKs on another connection", 50, |_| {
            let mut hello = wire::hello(&[VERSIONS, SIZE, CAPABILITIES, ENGINE_ID]);
            hello.truncate(hello.len() / 2);
            hello
        }),
        beside("20-say-garbage", "ACKs on another connection", 20, |_| BytesMut::from(&[0xa5; 512][..])),
        beside("20-promise-a-large-frame", "ACKs on another connection", 20, |lab| {
            let mut hello = wire::hello(&[VERSIONS, SIZE, CAPABILITIES, ENGINE_ID]);
            hello.extend_from_slice(&lab.announced.max_frame_size.to_be_bytes());
            hello
        }),
        errors("one-says-garbage", |_| BytesMut::from(&[0xff; 64][..])),
        errors("one-asks-unreadably", |_| wire::notify(3, 1, b"\x7f")),
        errors("one-says-goodbye", |_| wire::goodbye()),
        errors("one-says-hello-twice", |_| wire::hello(&[VERSIONS, SIZE, CAPABILITIES, ENGINE_ID])),
        errors("one-interlaces", |lab| {
            let first = wire::frame(FrameType::Notify, Flags::NONE, 3, 1, b"");
            BytesMut::from(&[first, lab.question(5, 1)].concat()[..])
        }),
        Case::new(
            "others/one-leaves-with-questions",
            "3.2.3",
            Level::Spec,
            "ACKs on the other connection",
            async |lab: Lab| {
                let mut good = lab.greeted().await?;
                for _ in 0..10 {
                    let mut gone = lab.greeted().await?;
                    gone.send(&lab.question(1, 1)).await;
                }
                served(&mut good, &lab).await
            },
        ),
        Case::new(
            "others/100-connections-at-once",
            "3.2.3",
            Level::Haproxy("every version"),
            "an ACK on each",
            async |lab: Lab| {
                let mut all = Vec::new();
                for _ in 0..100 {
                    all.push(lab.greeted().await?);
                }
                for conversation in &mut all {
                    conversation.send(&lab.question(1, 1)).await;
                }
                for conversation in &mut all {
                    conversation.ack_of(1, 1).await?;
                }
                Ok("100 ACKs".to_owned())
            },
        ),
    ]
}

async fn served(good: &mut Conversation, lab: &Lab) -> Seen {
    for stream in 10..15 {
        good.ask(lab, stream, 1).await?;
    }
    Ok("5 ACKs".to_owned())
}

/// Longer than the shortest timeouts that servers have, shorter than HAProxy keeps an idle connection.
const IDLE: std::time::Duration = std::time::Duration::from_secs(2);
