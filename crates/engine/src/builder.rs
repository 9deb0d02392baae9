//! Putting an engine together.

use crate::automation::BackgroundController;
use crate::clock::{Clock, SystemClock};
use crate::connectivity::ConnectivityService;
use crate::driver::{Driver, Parts};
use crate::engine::Engine;
use crate::error::Error;
use crate::resolver::ConflictResolver;
use landfall_core::adapter::Adapter;
use landfall_core::config::Config;
use landfall_core::conflict::{ConflictDetector, Detector};
use landfall_core::merge::rule::{Rules, Strategy};
use landfall_core::model::Model;
use landfall_core::store::Store;
use std::sync::Arc;

/// Settings of an engine that is not open yet.
#[derive(Debug)]
pub struct EngineBuilder {
    store: Box<dyn Store>,
    adapter: Arc<dyn Adapter>,
    config: Config,
    clock: Box<dyn Clock>,
    resolver: Option<Arc<dyn ConflictResolver>>,
    identity: Option<String>,
    background: Option<Arc<dyn BackgroundController>>,
    connectivity: Option<Box<dyn ConnectivityService>>,
}

impl EngineBuilder {
    pub(crate) fn new(store: impl Store + 'static, adapter: impl Adapter) -> Self {
        Self {
            store: Box::new(store),
            adapter: Arc::new(adapter),
            config: Config::default(),
            clock: Box::new(SystemClock::default()),
            resolver: None,
            identity: None,
            background: None,
            connectivity: None,
        }
    }

    /// Replaces every setting at once; see [`Config`] for the defaults and their reasons.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// What happens when two sides changed the same. Fields that only one side changed are kept in every strategy.
    #[must_use]
    pub fn conflict_strategy(mut self, strategy: Strategy) -> Self {
        self.config.conflicts.rules.strategy = strategy;
        self
    }

    /// Strategies per type, rules per field, groups, resolvers and validators; replaces an earlier strategy.
    #[must_use]
    pub fn rules(mut self, rules: Rules) -> Self {
        self.config.conflicts.rules = rules;
        self
    }

    /// What counts as a conflict, for a backend that says so in its own way.
    #[must_use]
    pub fn conflict_detector(mut self, detector: impl ConflictDetector + 'static) -> Self {
        self.config.conflicts.detector = Detector(Arc::new(detector));
        self
    }

    /// Who is asked about conflicts that the rules leave open, before a person is. It may take its time; what it
    /// decides is sent by the next run of `sync`.
    #[must_use]
    pub fn conflict_resolver(mut self, resolver: impl ConflictResolver) -> Self {
        self.resolver = Some(Arc::new(resolver));
        self
    }

    /// Whose queue is opened; the default is the one for apps without accounts.
    #[must_use]
    pub fn identity(mut self, identity: impl Into<String>) -> Self {
        self.identity = Some(identity.into());
        self
    }

    /// Who tells of the device: its network, its power, the screen. It is started with the engine and stopped with it.
    /// Without one, auto-sync listens to [`SystemConnectivity`](crate::SystemConnectivity) once it is enabled.
    #[must_use]
    pub fn connectivity(mut self, service: impl ConnectivityService) -> Self {
        self.connectivity = Some(Box::new(service));
        self
    }

    /// Who plans windows in the background when the app goes to sleep and leaves work.
    #[must_use]
    pub fn background_controller(mut self, controller: impl BackgroundController) -> Self {
        self.background = Some(Arc::new(controller));
        self
    }

    /// What the app says of its record types and lanes: references, payload formats, what a dead letter holds up.
    #[must_use]
    pub fn model(mut self, model: Model) -> Self {
        self.config.model = model;
        self
    }

    /// Replaces the clocks and the random source.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Box::new(clock);
        self
    }

    /// Opens the engine: writes the durable barrier of this open, then starts the engine's thread.
    ///
    /// # Errors
    /// [`Error::Store`] when the store cannot be used.
    pub async fn build(self) -> Result<Engine, Error> {
        let (engine, opened) = self.start()?;
        opened.await.map_err(|_| Error::Closed)??;
        Ok(engine)
    }

    /// The blocking twin of [`build`](Self::build).
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn build_blocking(self) -> Result<Engine, Error> {
        pollster::block_on(self.build())
    }

    fn start(mut self) -> Result<(Engine, futures_channel::oneshot::Receiver<Result<(), Error>>), Error> {
        if let Some(identity) = &self.identity {
            self.store.switch_identity(Some(identity))?;
        }
        let reader = self.store.reader()?;
        let parts = Parts {
            store: self.store,
            adapter: self.adapter,
            config: self.config,
            clock: self.clock,
            resolver: self.resolver,
        };
        let (handle, opened) = Driver::start(parts)?;
        let engine = Engine::new(handle, reader, self.background);
        if let Some(service) = self.connectivity {
            engine.listen_to(service);
        }
        Ok((engine, opened))
    }
}
