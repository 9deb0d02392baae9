//! A create whose reply is lost, and everything a user can do meanwhile, in every order (R1 to R4 of the plan).
//!
//! Not random: the tree of all interleavings of user, network and crash up to a depth is walked, and from each leaf the
//! world heals. Then server and app agree, every task had one effect, and the server never saw a key with two
//! fingerprints (G3, G8, G9).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use landfall_adapters::http::HttpResponse;
use landfall_adapters::sync_endpoint::{decode_push, encode_push};
use landfall_core::adapter::{Capabilities, EffectClass, PushBatch};
use landfall_core::change::Change;
use landfall_core::config::Config;
use landfall_core::entity::Body;
use landfall_core::event::Event;
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::id::{EntityKey, Entropy};
use landfall_core::machine::{Effect, Machine, SessionEnd, Step};
use landfall_core::store::memory::MemoryStore;
use landfall_core::store::{Store, StoreTx};
use landfall_core::time::{Mono, Now, Timestamp};
use landfall_core::value::Fields;
use landfall_server::state::{MemoryRecords, push};
use std::collections::BTreeMap;
use std::time::Duration;

/// Things that happen after the create was sent, at most.
const DEPTH: u32 = 7;
/// Changes the user makes meanwhile, at most.
const EDITS: u32 = 4;

#[derive(Clone)]
struct World {
    store: MemoryStore,
    machine: Machine,
    server: MemoryRecords,
    clock_ms: u64,
    entropy: u8,
    /// The request in the air, whether it has reached the server, and the server's answer.
    flight: Option<Flight>,
    /// Every request ever made, for late copies.
    requests: Vec<Vec<u8>>,
    edits: u32,
    path: Vec<&'static str>,
}

#[derive(Clone)]
struct Flight {
    batch: PushBatch,
    body: Vec<u8>,
    answer: Option<HttpResponse>,
}

fn note() -> EntityKey {
    EntityKey::new("note", "n1")
}

impl World {
    fn new() -> Self {
        let mut store = MemoryStore::default();
        let machine = open(&mut store, 0);
        let server = MemoryRecords::new("db");
        let mut world = Self {
            store,
            machine,
            server,
            clock_ms: 0,
            entropy: 0,
            flight: None,
            requests: Vec::new(),
            edits: 0,
            path: Vec::new(),
        };
        world.edit(Change::create("note", "n1").set("a", 0).set("b", 0));
        world.sync();
        world
    }

    fn step(&mut self, work: impl FnOnce(&mut Step, &mut dyn StoreTx)) {
        self.clock_ms += 1;
        self.entropy = self.entropy.wrapping_add(1);
        let now = Now { wall: Timestamp(1_000_000 + self.clock_ms as i64), mono: Mono(self.clock_ms) };
        let mut step = self.machine.step(now, Entropy([self.entropy; 32]));
        let mut tx = self.store.begin().unwrap();
        work(&mut step, &mut *tx);
        if step.needs_lease() {
            step.lead(&mut *tx, "me", &|_| true).unwrap();
        }
        step.finish(&mut *tx).unwrap();
        tx.commit().unwrap();
        for effect in self.machine.apply(step) {
            match effect {
                Effect::Push { context, batch } => {
                    assert!(self.flight.is_none(), "one entity, one call at a time: {:?}", self.path);
                    let body = encode_push(&context, &batch);
                    self.requests.push(body.clone());
                    self.flight = Some(Flight { batch, body, answer: None });
                }
                Effect::Emit(Event::Conflicted { task, .. }) => {
                    panic!("{task} is in conflict with itself: {:?}", self.path)
                }
                Effect::Emit(Event::Died { task, why, .. }) => {
                    panic!("{task} died of {why:?}: {:?}", self.path)
                }
                _ => {}
            }
        }
    }

    fn edit(&mut self, change: Change) {
        self.edits += 1;
        self.step(|step, tx| {
            step.enqueue(tx, change).unwrap();
        });
    }

    fn sync(&mut self) {
        self.step(|step, _| {
            step.connectivity_regained();
            step.start_session(SessionEnd::Drained { within: Duration::from_secs(3600) });
        });
    }

    fn crash(&mut self) {
        self.flight = None;
        self.machine = open(&mut self.store, self.entropy.wrapping_add(100));
    }

    fn arrive(&mut self) {
        if let Some(flight) = &mut self.flight {
            flight.answer = Some(serve(&mut self.server, &flight.body));
        }
    }

    fn answer(&mut self, cut: bool) {
        let Some(flight) = self.flight.take() else { return };
        let reply = match flight.answer {
            Some(reply) if !cut => decode_push(&flight.batch, &reply),
            _ => Err(Failure::new(FailureKind::Transient, Delivery::Unknown, "timeout")),
        };
        let call = flight.batch.call;
        self.step(|step, tx| step.pushed(tx, call, &reply).unwrap());
    }

    fn local(&mut self) -> Option<Body> {
        self.store.begin().unwrap().entity(&note()).unwrap().and_then(|entity| entity.local)
    }

    /// Everything that can happen next, each in a world of its own.
    fn futures(&mut self) -> Vec<(&'static str, World)> {
        let mut futures = Vec::new();
        let mut add = |world: &World, name, act: &dyn Fn(&mut World)| {
            let mut next = world.clone();
            next.path.push(name);
            act(&mut next);
            futures.push((name, next));
        };
        let local = self.local();
        if self.edits <= EDITS {
            let n = i64::from(self.edits);
            match local {
                Some(Body::Live(_)) => {
                    add(self, "edit", &|world| world.edit(Change::update("note", "n1").set("a", n)));
                    add(self, "delete", &|world| world.edit(Change::delete("note", "n1")));
                }
                _ => add(self, "re-create", &|world| world.edit(Change::create("note", "n1").set("c", n))),
            }
        }
        match &self.flight {
            Some(flight) if flight.answer.is_none() => {
                add(self, "arrives", &|world| world.arrive());
                add(self, "lost on the way", &|world| world.answer(true));
            }
            Some(_) => {
                add(self, "reply lost", &|world| world.answer(true));
                add(self, "reply comes", &|world| world.answer(false));
            }
            None => add(self, "sync", &|world| world.sync()),
        }
        add(self, "crash", &|world| world.crash());
        if !self.requests.is_empty() {
            add(self, "late copy", &|world| {
                let body = world.requests[0].clone();
                drop(serve(&mut world.server, &body));
            });
        }
        futures
    }

    /// From here on all goes well; what holds then must hold.
    fn heal_and_judge(mut self) {
        for _ in 0..60 {
            if self.store.begin().unwrap().counts().unwrap().total() == 0 {
                break;
            }
            self.clock_ms += 3_600_000;
            if self.flight.is_none() {
                self.sync();
            }
            self.arrive();
            self.answer(false);
        }
        for body in self.requests.clone() {
            drop(serve(&mut self.server, &body));
        }
        let path = &self.path;
        let mut store = self.store.clone();
        let tx = store.begin().unwrap();
        assert_eq!(tx.counts().unwrap().total(), 0, "something never left: {path:?}");
        let local = tx.entity(&note()).unwrap().and_then(|entity| entity.local);
        let held = self.server.stored("note", "n1").map(|stored| match &stored.fields {
            Some(fields) => Body::Live(Fields::parse(&fields.to_json()).unwrap()),
            None => Body::Deleted,
        });
        match (&local, &held) {
            (None | Some(Body::Deleted), None | Some(Body::Deleted)) => {}
            _ => assert_eq!(local, held, "the app and the server differ: {path:?}"),
        }
        let mut effects: BTreeMap<&str, u32> = BTreeMap::new();
        for effect in self.server.effects() {
            *effects.entry(&effect.task_id).or_default() += 1;
        }
        assert!(effects.values().all(|times| *times == 1), "two effects of one task: {path:?} {effects:?}");
    }
}

fn open(store: &mut MemoryStore, entropy: u8) -> Machine {
    let capabilities = Capabilities {
        batch_tasks: 10,
        batch_bytes: 1 << 20,
        effect: EffectClass::OneEffect,
        pull: false,
        orders_writes: true,
        atomic_groups: true,
        actions: true,
        probe: false,
    };
    let mut tx = store.begin().unwrap();
    let machine = Machine::open(Config::default(), capabilities, &Entropy([entropy; 32]), &mut *tx).unwrap();
    tx.commit().unwrap();
    machine
}

fn serve(server: &mut MemoryRecords, body: &[u8]) -> HttpResponse {
    let request = serde_json::from_slice(body).unwrap();
    let response = push(server, &request).unwrap();
    for result in &response.results {
        let code = result.error.as_ref().map(|error| error.code.as_str());
        assert_ne!(code, Some("key_reused"), "a key was seen with two fingerprints");
    }
    HttpResponse::new(200, "application/json", serde_json::to_vec(&response).unwrap())
}

fn walk(world: &mut World, depth: u32, leaves: &mut u64) {
    if depth == 0 {
        *leaves += 1;
        return world.clone().heal_and_judge();
    }
    for (_, mut next) in world.futures() {
        walk(&mut next, depth - 1, leaves);
    }
}

#[test]
fn edit_delete_and_recreate_during_a_lost_create_converge_in_every_order() {
    let mut leaves = 0;
    walk(&mut World::new(), DEPTH, &mut leaves);
    println!("{leaves} interleavings");
    assert!(leaves > 90_000);
}
