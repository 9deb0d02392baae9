//! The stores of a simulated life on simulated disks: one disk for each device, one `SqliteStore` for each process.
//!
//! What goes wrong is drawn from the seed: first which kinds of trouble there are at all in this life and how often, then
//! each time whether it comes and at which operation. A process dies in the middle of a step or of an opening, the
//! device loses its power there or in between, reads, writes and syncs fail, the disk is full for a while. It knows
//! nothing of the world but what [`Home`] says. Tests: `tests/whole_engine.rs`.

use crate::dice::Dice;
use crate::troubles::Troubles;
use landfall_core::store::{Store, StoreError};
use landfall_simdisk::{Directory, Disk, Entered, Fault, Image, Kind};
use landfall_sqlite::SqliteStore;
use landfall_testkit::campaign::Figures;
use landfall_testkit::sim::home::{Blow, Home};
use std::time::Duration;

/// What is broken on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plant {
    /// Syncs do nothing and say that they did.
    LyingSync,
    /// What is seen at an opening is not made durable by it.
    NoBarrier,
}

/// What one device has. The stores go first, then the disk.
#[derive(Debug)]
struct Place {
    stores: Vec<Option<SqliteStore>>,
    disk: Disk,
    full: u64,
    /// Whether an operation is to fail.
    armed: bool,
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
        let mut dice = Dice::new(seed, 12);
        let place = |_| {
            let disk = Disk::new(dice.next());
            disk.set_directory(dice.pick(&[Directory::Strict, Directory::Ordered]));
            Place { stores: Vec::new(), disk, full: 0, armed: false }
        };
        let places = (0..devices).map(place).collect();
        let troubles = Troubles::draw(Dice::new(seed, 11));
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
        let (image, seed) = (self.troubles.dice.pick(&Image::ALL), self.troubles.dice.next());
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
        place.armed = self.troubles.arm(&place.disk, number, &mut place.full);
    }

    fn after(&mut self, device: usize, process: usize) -> Option<Blow> {
        let number = self.enter(device, process);
        let Place { disk, armed, .. } = &mut self.places[device];
        let (crashed, hit) = (disk.is_crashed(number), std::mem::take(armed) && disk.was_hit());
        disk.clear_faults();
        if !crashed {
            if hit {
                self.count("faults");
            }
            return None;
        }
        if self.troubles.dice.percent(self.troubles.power) {
            self.cut_power(device);
            return Some(Blow::PowerCut);
        }
        let place = &mut self.places[device];
        place.disk.kill(number);
        place.stores[process] = None;
        self.count("deaths");
        Some(Blow::Killed)
    }

    fn end(&mut self, device: usize, process: usize) {
        let number = self.enter(device, process);
        let orderly = self.troubles.dice.percent(self.troubles.orderly);
        let place = &mut self.places[device];
        if orderly {
            place.stores[process] = None;
        }
        place.disk.kill(number);
        place.stores[process] = None;
    }

    fn loses_power(&mut self, device: usize) -> bool {
        if !self.troubles.dice.percent(self.troubles.between) {
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
