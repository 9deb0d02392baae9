//! One record's lane, the network, the server, and another client that edits another field of the record.
//!
//! Our client writes field `a`, makes the record, deletes it and makes it anew; the other client writes `b`. Values are
//! numbers that grow, so that each is written once. A request stays in the air until it is dropped: it may arrive again,
//! late, and behind newer ones.

use stateright::{Model, Property};
use std::collections::{BTreeMap, BTreeSet};

/// How far the model goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Changes our user makes.
    pub(crate) edits: u8,
    /// Changes the other client makes.
    pub(crate) others: u8,
    pub(crate) crashes: u8,
    pub(crate) timeouts: u8,
    /// Pages of the feed that are asked for.
    pub(crate) pages: u8,
    /// Requests on their way at once.
    pub(crate) in_the_air: usize,
}

/// The rules as they are, or one of them as it must not be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rule {
    Right,
    /// An edit changes the task that is under way.
    EditsSent,
    /// A create that was sent and its delete are both dropped.
    AnnihilatesSent,
    /// That a task was sent is remembered in memory only.
    SendsForgotten,
    /// Every send has a key of its own.
    KeyPerSend,
    /// A task whose call timed out may be edited again.
    MeltsOnTimeout,
    /// An answer for one task settles all of its record.
    AckByRecord,
    /// The server does not remember keys.
    NoKeys,
    /// The server forgets keys after a while.
    KeysExpire,
    /// The server answers, and then its commit fails.
    AnswersBeforeCommit,
    /// The whole record as the app sees it is sent, not what the user changed, to a server that compares no versions.
    WholeRecord,
    /// A page of the feed is believed although a verdict overtook it.
    OldPageBelieved,
}

const ONE_EFFECT: &str = "one task, one effect";
const AGREES: &str = "what is drained is what the server has";
const ARRIVED: &str = "what the user wrote last is what the server has, once all is drained";
const NOT_HOLLOW: &str = "what was acknowledged had its effect";
const IN_ORDER: &str = "effects come in the order of changes";
const FROZEN: &str = "a key has one content for ever";
const UNTOUCHED: &str = "what our user did not touch stays";

impl Rule {
    /// Each wrong rule, and the property that it breaks.
    pub(crate) const WRONG: [(Self, &'static str); 11] = [
        (Self::EditsSent, FROZEN),
        (Self::AnnihilatesSent, AGREES),
        (Self::SendsForgotten, FROZEN),
        (Self::KeyPerSend, ONE_EFFECT),
        (Self::MeltsOnTimeout, FROZEN),
        (Self::AckByRecord, ARRIVED),
        (Self::NoKeys, ONE_EFFECT),
        (Self::KeysExpire, ONE_EFFECT),
        (Self::AnswersBeforeCommit, NOT_HOLLOW),
        (Self::WholeRecord, UNTOUCHED),
        (Self::OldPageBelieved, AGREES),
    ];
}

/// What a task does to the record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum What {
    Create(u8),
    Update(u8),
    Delete,
    /// Made anew behind its deletion.
    Replace(u8),
}

impl What {
    fn value(self) -> Option<u8> {
        match self {
            Self::Create(a) | Self::Update(a) | Self::Replace(a) => Some(a),
            Self::Delete => None,
        }
    }
}

/// What becomes of an unsent change when the next one comes; `None`: the two stay two. The inner `None`: neither stays.
pub(crate) fn folded(queued: What, new: What) -> Option<Option<What>> {
    use What::{Create, Delete, Replace, Update};
    match (queued, new) {
        (Create(_), Delete) => Some(None),
        (Create(_), Update(a)) => Some(Some(Create(a))),
        (Replace(_), Update(a)) => Some(Some(Replace(a))),
        (Update(_), Update(a)) => Some(Some(Update(a))),
        (Update(_) | Replace(_), Delete) => Some(Some(Delete)),
        (Delete, Create(a)) => Some(Some(Replace(a))),
        _ => None,
    }
}

/// A queued change.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Task {
    key: u8,
    /// Which change of the user it stands for, whatever keys it had.
    change: u8,
    pub(crate) what: What,
    /// As it was sent; then it is never edited.
    pub(crate) frozen: Option<Request>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Request {
    key: u8,
    change: u8,
    what: What,
    /// The version that the change was made on.
    on: u8,
    /// What the other client's field is set to, where a rule sends it.
    b: Option<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Held {
    /// `a` and `b`; `None` where there is no record.
    fields: Option<(u8, u8)>,
    version: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Answer {
    /// It has its effect; the record is at this version with this `b`.
    Done(Held),
    /// It has none: the record is at another version.
    Conflict(Held),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Lane {
    // Our client; all but `flight` and `page` is on its disk.
    base: Held,
    pub(crate) queue: Vec<Task>,
    flight: Option<u8>,
    /// A page that was asked for; with what it holds once the server has read it.
    page: Option<Option<Held>>,
    overtaken: bool,
    keys: u8,
    // The network.
    requests: BTreeSet<Request>,
    answers: BTreeSet<(u8, Answer)>,
    // The server.
    held: Held,
    verdicts: BTreeMap<u8, Answer>,
    effects: BTreeMap<u8, u8>,
    newest: u8,
    // What the properties look at.
    sent: BTreeMap<u8, Request>,
    /// `a` as the user left it; `None`: no record.
    wanted: Option<u8>,
    others_b: u8,
    hollow: bool,
    disordered: bool,
    thawed: bool,
    // What was used up of the bounds.
    edits: u8,
    others: u8,
    crashes: u8,
    timeouts: u8,
    pages: u8,
    forgot: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Act {
    Edit(What),
    OtherEdits,
    Send,
    Arrive(Request),
    /// It arrives, is answered, and the server loses what it did.
    ArriveInVain(Request),
    Drop(Request),
    Answer(u8, Answer),
    Timeout,
    Crash,
    AskPage,
    ReadPage,
    PageComes,
    ServerForgets,
}

pub(crate) struct LaneModel {
    pub(crate) rule: Rule,
    pub(crate) bounds: Bounds,
}

impl Lane {
    pub(crate) fn new() -> Self {
        let nothing = Held { fields: None, version: 0 };
        Self {
            base: nothing,
            queue: Vec::new(),
            flight: None,
            page: None,
            overtaken: false,
            keys: 0,
            requests: BTreeSet::new(),
            answers: BTreeSet::new(),
            held: nothing,
            verdicts: BTreeMap::new(),
            effects: BTreeMap::new(),
            newest: 0,
            sent: BTreeMap::new(),
            wanted: None,
            others_b: 0,
            hollow: false,
            disordered: false,
            thawed: false,
            edits: 0,
            others: 0,
            crashes: 0,
            timeouts: 0,
            pages: 0,
            forgot: false,
        }
    }

    /// What the app shows: the base with every queued change laid over it.
    pub(crate) fn view(&self) -> Option<(u8, u8)> {
        self.queue.iter().fold(self.base.fields, |fields, task| match (task.what, fields) {
            (What::Update(a), Some((_, b))) => Some((a, b)),
            (What::Create(a) | What::Replace(a), _) => Some((a, 0)),
            (What::Update(_), None) | (What::Delete, _) => None,
        })
    }

    /// The next change that makes sense for what the app shows.
    pub(crate) fn sensible(&self) -> Vec<What> {
        let fresh = self.edits + 1;
        match self.view() {
            Some(_) => vec![What::Update(fresh), What::Delete],
            None => vec![What::Create(fresh)],
        }
    }

    pub(crate) fn edit(&mut self, what: What, rule: Rule) {
        self.edits += 1;
        self.wanted = what.value();
        if let Some(last) = self.queue.last_mut() {
            let open = last.frozen.is_none()
                || (rule == Rule::EditsSent)
                || (rule == Rule::AnnihilatesSent && what == What::Delete);
            match folded(last.what, what) {
                Some(Some(both)) if open => {
                    last.what = both;
                    if rule == Rule::EditsSent {
                        last.frozen = None;
                    }
                    return;
                }
                Some(None) if open => {
                    let gone = self.queue.pop();
                    if self.flight == gone.map(|task| task.key) {
                        self.flight = None;
                    }
                    return;
                }
                _ => {}
            }
        }
        self.keys += 1;
        self.queue.push(Task { key: self.keys, change: self.edits, what, frozen: None });
    }

    pub(crate) fn send(&mut self, rule: Rule) {
        if rule == Rule::KeyPerSend && self.queue[0].frozen.is_some() {
            self.keys += 1;
            self.queue[0].key = self.keys;
            self.queue[0].frozen = None;
        }
        let b = if rule == Rule::WholeRecord { self.view().map(|(_, b)| b) } else { None };
        let on = self.base.version;
        let task = &mut self.queue[0];
        let fresh = Request { key: task.key, change: task.change, what: task.what, on, b };
        let request = *task.frozen.get_or_insert(fresh);
        self.thawed |= *self.sent.entry(request.key).or_insert(request) != request;
        self.flight = Some(request.key);
        self.requests.insert(request);
    }

    pub(crate) fn time_out(&mut self, rule: Rule) {
        self.timeouts += 1;
        self.flight = None;
        if rule == Rule::MeltsOnTimeout {
            self.queue[0].frozen = None;
        }
    }

    pub(crate) fn crash(&mut self, rule: Rule) {
        self.crashes += 1;
        self.flight = None;
        self.page = None;
        if rule == Rule::SendsForgotten {
            self.queue.iter_mut().for_each(|task| task.frozen = None);
        }
    }

    /// A verdict reaches the client.
    pub(crate) fn answered(&mut self, key: u8, answer: Answer, rule: Rule) {
        let Some(place) = self.queue.iter().position(|task| task.key == key && task.frozen.is_some()) else {
            return;
        };
        if self.flight == Some(key) {
            self.flight = None;
        }
        self.overtaken = true;
        let (Answer::Done(held) | Answer::Conflict(held)) = answer;
        self.base = held;
        match answer {
            Answer::Done(_) => {
                let done = self.queue.remove(place);
                self.hollow |= self.effects.get(&done.change).is_none_or(|times| *times == 0);
                if rule == Rule::AckByRecord {
                    self.queue.clear();
                    self.flight = None;
                }
            }
            // It goes on as a new task, laid over what the server has.
            Answer::Conflict(_) => {
                self.keys += 1;
                let (key, what) = (self.keys, self.queue[place].what);
                let what = match (what, held.fields) {
                    (What::Create(a) | What::Replace(a), Some(_)) => What::Replace(a),
                    _ => what,
                };
                let change = self.queue[place].change;
                self.queue[place] = Task { key, change, what, frozen: None };
            }
        }
    }

    /// All is well: the oldest request arrives and its answer comes.
    pub(crate) fn applied_by_the_server(&mut self) {
        let Some(request) = self.queue[0].frozen else { return };
        self.serve(request, Rule::Right, true);
        self.answers.clear();
        let answer = self.verdicts[&request.key];
        self.answered(request.key, answer, Rule::Right);
    }

    /// The server takes a request; `lasting`: its commit succeeds.
    fn serve(&mut self, request: Request, rule: Rule, lasting: bool) {
        if rule != Rule::NoKeys
            && let Some(answer) = self.verdicts.get(&request.key)
        {
            self.answers.insert((request.key, *answer));
            return;
        }
        let before = self.clone();
        let fits = match request.what {
            What::Create(_) => self.held.fields.is_none(),
            What::Update(_) => self.held.fields.is_some() && self.held.version == request.on,
            What::Delete | What::Replace(_) => self.held.version == request.on,
        };
        // A server that does not compare versions is what a whole record is dangerous for.
        let fits = fits || (rule == Rule::WholeRecord && self.held.fields.is_some());
        let answer = if fits {
            self.held.version += 1;
            self.held.fields = match (request.what, self.held.fields) {
                (What::Update(a), Some((_, b))) => Some((a, request.b.unwrap_or(b))),
                (What::Delete, _) => None,
                (what, _) => what.value().map(|a| (a, 0)),
            };
            if !matches!(request.what, What::Update(_)) {
                self.others_b = 0;
            }
            *self.effects.entry(request.change).or_default() += 1;
            self.disordered |= request.change < self.newest;
            self.newest = self.newest.max(request.change);
            Answer::Done(self.held)
        } else {
            Answer::Conflict(self.held)
        };
        self.verdicts.insert(request.key, answer);
        if !lasting {
            *self = before;
        }
        self.answers.insert((request.key, answer));
    }

    fn page_comes(&mut self, rule: Rule) {
        let Some(Some(held)) = self.page.take() else { return };
        let fate_open = self.queue.iter().any(|task| task.frozen.is_some());
        let believed = rule == Rule::OldPageBelieved || !(self.overtaken || fate_open);
        if believed {
            self.base = held;
        }
    }
}

impl Model for LaneModel {
    type State = Lane;
    type Action = Act;

    fn init_states(&self) -> Vec<Lane> {
        vec![Lane::new()]
    }

    fn actions(&self, lane: &Lane, acts: &mut Vec<Act>) {
        let bounds = &self.bounds;
        if lane.edits < bounds.edits {
            acts.extend(lane.sensible().into_iter().map(Act::Edit));
        }
        if lane.others < bounds.others && lane.held.fields.is_some() {
            acts.push(Act::OtherEdits);
        }
        if lane.flight.is_none() && !lane.queue.is_empty() && lane.requests.len() < bounds.in_the_air {
            acts.push(Act::Send);
        }
        for request in &lane.requests {
            acts.extend([Act::Arrive(*request), Act::Drop(*request)]);
            if self.rule == Rule::AnswersBeforeCommit && !lane.forgot {
                acts.push(Act::ArriveInVain(*request));
            }
        }
        acts.extend(lane.answers.iter().map(|(key, answer)| Act::Answer(*key, *answer)));
        if lane.flight.is_some() && lane.timeouts < bounds.timeouts {
            acts.push(Act::Timeout);
        }
        if lane.crashes < bounds.crashes {
            acts.push(Act::Crash);
        }
        match lane.page {
            None if lane.pages < bounds.pages => acts.push(Act::AskPage),
            None => {}
            Some(None) => acts.push(Act::ReadPage),
            Some(Some(_)) => acts.push(Act::PageComes),
        }
        if self.rule == Rule::KeysExpire && !lane.forgot && !lane.verdicts.is_empty() {
            acts.push(Act::ServerForgets);
        }
    }

    fn next_state(&self, before: &Lane, act: Act) -> Option<Lane> {
        let mut lane = before.clone();
        match act {
            Act::Edit(what) => lane.edit(what, self.rule),
            Act::OtherEdits => {
                lane.others += 1;
                let (a, _) = lane.held.fields?;
                lane.others_b = lane.others;
                lane.held = Held { fields: Some((a, lane.others)), version: lane.held.version + 1 };
            }
            Act::Send => lane.send(self.rule),
            Act::Arrive(request) => lane.serve(request, self.rule, true),
            Act::ArriveInVain(request) => {
                lane.forgot = true;
                lane.serve(request, self.rule, false);
            }
            Act::Drop(request) => drop(lane.requests.remove(&request)),
            Act::Answer(key, answer) => {
                lane.answers.remove(&(key, answer));
                lane.answered(key, answer, self.rule);
            }
            Act::Timeout => lane.time_out(self.rule),
            Act::Crash => lane.crash(self.rule),
            Act::AskPage => {
                lane.pages += 1;
                lane.page = Some(None);
                lane.overtaken = false;
            }
            Act::ReadPage => lane.page = Some(Some(lane.held)),
            Act::PageComes => lane.page_comes(self.rule),
            Act::ServerForgets => {
                lane.forgot = true;
                lane.verdicts.clear();
            }
        }
        (lane != *before).then_some(lane)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_EFFECT, |_, lane: &Lane| lane.effects.values().all(|times| *times <= 1)),
            Property::always(AGREES, |_, lane: &Lane| {
                let a = |fields: Option<(u8, u8)>| fields.map(|(a, _)| a);
                !lane.queue.is_empty() || a(lane.view()) == a(lane.held.fields)
            }),
            Property::always(ARRIVED, |_, lane: &Lane| {
                !lane.queue.is_empty() || lane.held.fields.map(|(a, _)| a) == lane.wanted
            }),
            Property::always(NOT_HOLLOW, |_, lane: &Lane| !lane.hollow),
            Property::always(IN_ORDER, |_, lane: &Lane| !lane.disordered),
            Property::always(FROZEN, |_, lane: &Lane| !lane.thawed),
            Property::always(UNTOUCHED, |_, lane: &Lane| {
                lane.held.fields.is_none_or(|(_, b)| b == lane.others_b)
            }),
            Property::sometimes("drained after a crash, beside the other's edit", |_, lane: &Lane| {
                lane.queue.is_empty() && lane.crashes > 0 && lane.others > 0 && lane.edits > 2
            }),
            Property::sometimes("a page brings the other's edit in", |_, lane: &Lane| {
                lane.base.fields.is_some_and(|(_, b)| b > 0) && lane.queue.is_empty()
            }),
        ]
    }

    fn within_boundary(&self, lane: &Lane) -> bool {
        lane.keys <= 6 && lane.answers.len() <= 2
    }
}
