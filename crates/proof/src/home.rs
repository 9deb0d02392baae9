//! The stores of a simulated life on simulated disks: one disk for each device, one `SqliteStore` for each process.
//!
//! What goes wrong is drawn from the seed: first which kinds of trouble there are at all in this life and how often, then
//! each time whether it comes and at which operation. A process dies in the middle of a step or of an opening, the
//! device loses its power there or in between, reads, writes and syncs fail, the disk is full for a while. It knows
//! nothing of the world but what [`Home`] says. Tests: `tests/whole_engine.rs`.

use landfall_core::store::{Store, StoreError};
use landfall_simdisk::{Directory, Disk, Entered, Fault, Image, Kind};
use landfall_sqlite::SqliteStore;
use landfall_testkit::campaign::Figures;
use landfall_testkit::sim::home::{Blow, Home};
use std::time::Duration;

/// A stream of lots (SplitMix64).
#[derive(Clone, Copy, Debug)]
pub struct Lots(u64);

impl Lots {
    /// The stream of a seed for one purpose.
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut lots = Self(seed ^ purpose.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        lots.draw();
        lots
    }

    /// A number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound.max(1)
    }

    /// True in `percent` of 100 cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of these.
    pub fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap_or(0)]
    }
}

/// What is broken on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plant {
    /// Syncs do nothing and say that they did.
    LyingSync,
    /// What is seen at an opening is not made durable by it.
    NoBarrier,
}

/// The kinds of trouble that may come in a life, beside crashes.
const TROUBLES: [Kind; 8] = [
    Kind::EioWrite,
    Kind::EioSync,
    Kind::EioRead,
    Kind::ShortWrite,
    Kind::EioTruncate,
    Kind::EioDelete,
    Kind::EioOpen,
    Kind::Full,
];
/// So many steps with a store a full disk stays full at most.
const FULL_STEPS: u64 = 8;

/// What goes wrong in one life, and how often.
#[derive(Debug)]
struct Troubles {
    lots: Lots,
    kinds: Vec<Kind>,
    /// In percent: of the steps that a crash or a failing operation waits for, of the crashes that are power cuts,
    /// of the moments in between that are, and of the processes that end in an orderly way.
    crashes: u64,
    failures: u64,
    power: u64,
    between: u64,
    orderly: u64,
    /// How far into a step trouble waits.
    reach: u64,
}

impl Troubles {
    fn draw(seed: u64) -> Self {
        let mut lots = Lots::new(seed, 11);
        let kinds = TROUBLES.into_iter().filter(|_| lots.percent(50)).collect();
        Self {
            kinds,
            crashes: lots.one_of(&[0, 3, 10, 25]),
            failures: lots.one_of(&[0, 3, 10, 25]),
            power: lots.one_of(&[0, 50, 100]),
            between: lots.one_of(&[0, 20, 60]),
            orderly: lots.one_of(&[0, 30]),
            reach: lots.one_of(&[4, 16, 40, 120]),
            lots,
        }
    }
}

/// What one device has. The stores go first, then the disk.
#[derive(Debug)]
struct Place {
    stores: Vec<Option<SqliteStore>>,
    disk: Disk,
    full: u64,
    /// The operation that is to fail.
    armed: Option<Kind>,
}

/// Every device with a disk of its own.
#[derive(Debug)]
pub struct DiskHome {
    /// As which process this thread works. Left before another one is entered.
    inside: Option<Entered>,
    places: Vec<Place>,
    troubles: Troubles,
    plant: Option<Plant>,
    figures: Figures,
}

impl DiskHome {
    /// Empty disks for so many devices.
    pub fn new(seed: u64, devices: usize, plant: Option<Plant>) -> Self {
        let mut lots = Lots::new(seed, 12);
        let place = |_| {
            let disk = Disk::new(lots.draw());
            disk.set_directory(lots.one_of(&[Directory::Strict, Directory::Ordered]));
            Place { stores: Vec::new(), disk, full: 0, armed: None }
        };
        let places = (0..devices).map(place).collect();
        let troubles = Troubles::draw(seed);
        Self { inside: None, places, troubles, plant, figures: Figures::new() }
    }

    fn enter(&mut self, device: usize, process: usize) -> u32 {
        let number = number_of(process);
        self.inside = None;
        let place = &mut self.places[device];
        self.inside = Some(place.disk.enter(number));
        if place.stores.len() <= process {
            place.stores.resize_with(process + 1, || None);
        }
        number
    }

    fn count(&mut self, what: &'static str) {
        *self.figures.entry(what).or_default() += 1;
    }

    fn cut_power(&mut self, device: usize) {
        let (image, seed) = (self.troubles.lots.one_of(&Image::ALL), self.troubles.lots.draw());
        let place = &mut self.places[device];
        place.disk.power_loss(image, seed);
        place.stores.iter_mut().for_each(|store| *store = None);
        place.full = 0;
        self.count("images");
    }
}

/// The process in which a test itself looks at files is 0.
fn number_of(process: usize) -> u32 {
    u32::try_from(process + 1).unwrap_or(u32::MAX)
}

impl Home for DiskHome {
    fn store(&mut self, device: usize, process: usize) -> Result<&mut dyn Store, StoreError> {
        self.enter(device, process);
        let place = &mut self.places[device];
        let Place { disk, stores, .. } = place;
        let store = &mut stores[process];
        let open = match store.take() {
            Some(open) => open,
            None => {
                if self.plant == Some(Plant::NoBarrier) {
                    disk.set_fault(Fault::forever(Kind::LyingSync, 1));
                }
                let options = SqliteStore::options().detect_copies(false).busy_timeout(Duration::ZERO);
                let opened = options.open(disk.path("landfall.db"));
                if self.plant == Some(Plant::NoBarrier) {
                    disk.clear_faults();
                }
                opened?
            }
        };
        Ok(store.insert(open))
    }

    fn before(&mut self, device: usize, process: usize, chaos: bool) {
        let number = self.enter(device, process);
        let place = &mut self.places[device];
        if self.plant == Some(Plant::LyingSync) {
            place.disk.set_fault(Fault::forever(Kind::LyingSync, 1));
        }
        if !chaos {
            return;
        }
        let Troubles { lots, kinds, crashes, failures, reach, .. } = &mut self.troubles;
        if lots.percent(*crashes) {
            let kind = lots.one_of(&[Kind::CrashBefore, Kind::CrashMiddle]);
            place.disk.set_fault(Fault::once(kind, 1 + lots.below(*reach)).of(number));
        }
        if place.full > 0 {
            place.full -= 1;
            place.armed = Some(Kind::Full);
            place.disk.set_fault(Fault::forever(Kind::Full, 1));
        } else if !kinds.is_empty() && lots.percent(*failures) {
            let (kind, at) = (lots.one_of(kinds), 1 + lots.below(*reach));
            place.armed = Some(kind);
            if kind == Kind::Full {
                place.full = lots.below(FULL_STEPS);
                place.disk.set_fault(Fault::forever(kind, at));
            } else {
                place.disk.set_fault(Fault::once(kind, at).of(number));
            }
        }
    }

    fn after(&mut self, device: usize, process: usize) -> Option<Blow> {
        let number = self.enter(device, process);
        let Place { disk, armed, .. } = &mut self.places[device];
        let (crashed, hit) = (disk.is_crashed(number), armed.take().filter(|_| disk.was_hit()));
        disk.clear_faults();
        if !crashed {
            if hit.is_some() {
                self.count("faults");
            }
            return None;
        }
        if self.troubles.lots.percent(self.troubles.power) {
            self.cut_power(device);
            return Some(Blow::PowerCut);
        }
        let place = &mut self.places[device];
        place.disk.kill(number);
        place.stores[process] = None;
        self.count("kills");
        Some(Blow::Killed)
    }

    fn end(&mut self, device: usize, process: usize) {
        let number = self.enter(device, process);
        let orderly = self.troubles.lots.percent(self.troubles.orderly);
        let place = &mut self.places[device];
        if orderly {
            place.stores[process] = None;
        }
        place.disk.kill(number);
        place.stores[process] = None;
    }

    fn loses_power(&mut self, device: usize) -> bool {
        if !self.troubles.lots.percent(self.troubles.between) {
            return false;
        }
        self.inside = None;
        self.cut_power(device);
        true
    }

    fn heal(&mut self) {
        self.places.iter().for_each(|place| place.disk.clear_faults());
    }

    fn figures(&self) -> Figures {
        self.figures.clone()
    }
}
