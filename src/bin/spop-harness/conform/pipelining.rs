//! Many questions, and which answer is whose. An agent that did not announce pipelining is asked one by one.

use tollgate::spop::TypedData;

use super::case::{Case, Level, Seen, failed};
use super::lab::{Conversation, Lab};
use super::wire::{self, CAPABILITIES, ENGINE_ID, SIZE, VERSIONS};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for count in [2u64, 20, 200] {
        let name = format!("pipelining/{count}-at-once");
        cases.push(asked(&name, "3.2.1", move || (0..count).map(|stream| (stream, 1)).collect()));
    }
    cases.extend([
        asked("pipelining/ids-in-no-order", "3.2.1", || {
            [9, 2, 7, 4, 300, 1, 0, 5000, 3].map(|stream| (stream, 1)).to_vec()
        }),
        asked("ids/stream-0", "3.2.6", || vec![(0, 1)]),
        asked("ids/frames-1-2-3-of-a-stream", "3.2.6", || vec![(7, 1), (7, 2), (7, 3)]),
        asked("ids/same-frame-of-many-streams", "3.2.6", || (0..30).map(|stream| (stream * 2 + 1, 1)).collect()),
        asked("ids/stream-and-frame-swapped", "3.2.6", || vec![(3, 8), (8, 3)]),
        asked("ids/falling", "3.2.6", || (1..=20).rev().map(|stream| (stream, 1)).collect()),
    ]);
    cases.push(Case::new("pipelining/not-offered", "3.2.1", Level::Spec, "20 ACKs, one by one", async |lab: Lab| {
        let none = ("capabilities", TypedData::Str(b""));
        let (mut conversation, _) = lab.greeted_by(&[VERSIONS, SIZE, none, ENGINE_ID]).await?;
        for stream in 0..20 {
            conversation.ask(&lab, stream, 1).await?;
        }
        Ok("20 ACKs".to_owned())
    }));
    cases.push(Case::new("pipelining/many-in-turn", "3.2.6", Level::Spec, "100 ACKs", async |lab: Lab| {
        let mut conversation = lab.greeted().await?;
        for stream in 0..100 {
            conversation.ask(&lab, stream, 1).await?;
        }
        Ok("100 ACKs".to_owned())
    }));
    cases.push(Case::new("pipelining/answered-once", "3.2.7", Level::Spec, "1 ACK, then nothing", async |lab: Lab| {
        let mut conversation = lab.greeted().await?;
        conversation.send(&lab.question(1, 1)).await;
        conversation.each_once([(1, 1)]).await
    }));
    cases.push(Case::new("ids/used-again", "3.2.6", Level::Spec, "an ACK each time", async |lab: Lab| {
        let mut conversation = lab.greeted().await?;
        for _ in 0..5 {
            conversation.send(&lab.question(4, 1)).await;
            conversation.ack_of(4, 1).await?;
        }
        Ok("5 ACKs".to_owned())
    }));
    cases.push(Case::new(
        "ids/same-on-two-connections",
        "3.2.1",
        Level::Haproxy("2.6-3.0, a pool for each thread"),
        "an ACK on each",
        async |lab: Lab| {
            let (mut one, mut other) = (lab.greeted().await?, lab.greeted().await?);
            one.send(&lab.question(1, 1)).await;
            other.send(&lab.question(1, 1)).await;
            other.each_once([(1, 1)]).await?;
            one.each_once([(1, 1)]).await?;
            Ok("an ACK on each".to_owned())
        },
    ));
    cases.push(Case::new("ids/same-of-another-engine", "3.2.4", Level::Spec, "an ACK on each", async |lab: Lab| {
        let other_engine = ("engine-id", TypedData::Str(b"another"));
        let mut one = lab.greeted().await?;
        let (mut other, _) = lab.greeted_by(&[VERSIONS, SIZE, CAPABILITIES, other_engine]).await?;
        one.send(&lab.question(2, 1)).await;
        other.send(&lab.question(2, 1)).await;
        one.each_once([(2, 1)]).await?;
        other.each_once([(2, 1)]).await?;
        Ok("an ACK on each".to_owned())
    }));
    cases.push(Case::new("ids/ack-has-fin", "3.2.7", Level::Spec, "flags FIN", async |lab: Lab| {
        let ack = lab.greeted().await?.ask(&lab, 1, 1).await?;
        match ack.head() {
            Some((_, flags, ..)) if flags.has(tollgate::spop::frame::Flags::FIN) => {
                Ok(format!("flags {:#x}", flags.bits()))
            }
            Some((_, flags, ..)) => failed(format!("flags {:#x}", flags.bits())),
            None => failed("an ACK without a head"),
        }
    }));
    cases.push(Case::new("ids/ack-has-no-other-flags", "3.2", Level::Advice, "flags 0x1", async |lab: Lab| {
        let ack = lab.greeted().await?.ask(&lab, 1, 1).await?;
        match ack.head().map_or(0, |head| head.1.bits()) {
            1 => Ok("flags 0x1".to_owned()),
            other => failed(format!("flags {other:#x}")),
        }
    }));
    cases.push(Case::new("pipelining/large-and-small", "3.2.1", Level::Spec, "an ACK each", async |lab: Lab| {
        let mut conversation = lab.greeted().await?;
        let large = vec![b'x'; 12_000];
        let large = lab.payload_with(&[wire::argument(super::lab::PADDING, TypedData::Str(&large))]);
        let questions = (0..10u64).map(|stream| match stream % 2 {
            0 => wire::notify(stream, 1, &large),
            _ => lab.question(stream, 1),
        });
        let questions: Vec<_> = questions.collect();
        together_or_one_by_one(&mut conversation, &lab, &questions, (0..10).map(|stream| (stream, 1)).collect()).await
    }));
    cases
}

/// The question under each of these identifiers: one ACK each, in any order, and nothing else.
fn asked(name: &str, section: &'static str, ids: impl FnOnce() -> Vec<(u64, u64)> + 'static) -> Case {
    Case::new(name, section, Level::Spec, "one ACK each, in any order", async move |lab: Lab| {
        let ids = ids();
        let mut conversation = lab.greeted().await?;
        let questions: Vec<_> = ids.iter().map(|(stream, frame)| lab.question(*stream, *frame)).collect();
        together_or_one_by_one(&mut conversation, &lab, &questions, ids).await
    })
}

async fn together_or_one_by_one(
    conversation: &mut Conversation,
    lab: &Lab,
    questions: &[bytes::BytesMut],
    ids: Vec<(u64, u64)>,
) -> Seen {
    if lab.announced.pipelining {
        conversation.send(&questions.concat()).await;
        return conversation.each_once(ids).await;
    }
    for (question, (stream, frame)) in questions.iter().zip(&ids) {
        conversation.send(question).await;
        conversation.ack_of(*stream, *frame).await?;
    }
    Ok(format!("{} ACKs, one by one", ids.len()))
}
