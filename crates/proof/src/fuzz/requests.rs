//! What a server is sent.

use landfall_core::value::{Fields, ValueError};
use landfall_protocol::{Status, Task};
use landfall_server::state::{MemoryRecords, push_with};
use landfall_server::{Incoming, Limits, NoPolicy, Submission};

pub(super) fn push(input: &[u8]) {
    let limits = Limits { tasks: 8, json_depth: 16, ..Limits::default() };
    let submission = match Submission::from_json(input, &limits) {
        Ok(submission) => submission,
        Err(problem) => {
            assert!(matches!(problem.status, 400 | 413), "{problem:?}");
            assert!(!problem.code.is_empty());
            return;
        }
    };
    assert!(submission.tasks.len() <= limits.tasks);
    let seen = super::objects(input, "tasks");
    assert_eq!(seen.len(), submission.tasks.len());
    for (task, seen) in submission.tasks.iter().zip(&seen) {
        assert_eq!(seen["key"].as_str(), Some(task.key()), "under another key");
        if let Incoming::Task(task, print) = task {
            // The core's reader is another one; what it cannot hold are only numbers beyond 64 bits.
            let fields = Fields::parse(&task.fields.to_json());
            let too_large = matches!(&fields, Err(ValueError::IntegerTooLarge(_)))
                || matches!(&fields, Err(ValueError::Json(why)) if why.contains("out of range"));
            assert!(fields.is_ok() || too_large, "{fields:?}");
            let text = serde_json::to_string(&**task).expect("a task is JSON");
            let again =
                serde_json::from_str::<Task>(&text).map(Incoming::from).expect("what was printed is read");
            assert_eq!(again, Incoming::Task(task.clone(), *print), "not the same when printed and read");
        }
    }
    twice(&submission);
}

/// The same request twice: each key has one verdict, the second time the first one again, and no second effect.
fn twice(submission: &Submission) {
    let mut records = MemoryRecords::new("server");
    let Ok(first) = push_with(&mut records, &NoPolicy, submission) else { return };
    let named: Vec<&str> = first.results.iter().map(|result| &*result.key).collect();
    let asked: Vec<&str> = submission.tasks.iter().map(Incoming::key).collect();
    assert_eq!(named, asked, "each task is answered once, in order");
    let effects = records.effects().len();
    let applied = first.results.iter().filter(|result| result.status == Status::Applied).count();
    assert_eq!(applied, effects, "as many effects as verdicts that say so");
    let second = push_with(&mut records, &NoPolicy, submission).expect("known by now");
    assert_eq!(records.effects().len(), effects, "a second effect under one key");
    for (first, second) in first.results.iter().zip(&second.results) {
        assert!(second.status != Status::Applied, "{second:?}");
        if first.status == Status::Applied {
            assert_eq!((&second.status, &second.version), (&Status::Duplicate, &first.version));
        }
    }
}
