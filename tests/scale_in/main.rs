//! The judge of scale-ins against a fleet that is only a model: seeded loads in virtual time, histories as a run would
//! write them, and each sin that such a fleet can commit.

mod damaged; // histories that lack something
mod faults; // servers that are paused or cut off, registries that forget, servers that are added
mod model;
mod relays; // I12
mod sins;
mod size;
mod vain; // steps that fail or do nothing // the matrix: each sin fails for its own reason alone // 10,000 legs over an hour
