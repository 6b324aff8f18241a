//! What a scale-in adds to a run: the script, the fleet that it acts on and is told about, and marks from outside.

use super::super::mark::Marks;
use crate::engine::Control;
use crate::fleet::backend::{Fleet, FleetWatch};
use crate::fleet::embedded::EmbeddedFleet;
use crate::history::{Event, Line, StepAction, StepEvent, StepStage};
use crate::plan::{Course as _, Order, Plan};
use crate::profile::Profile;
use crate::report::RunFolder;
use crate::script::Script;
use crate::signaling::BoxFuture;
use anyhow::{Context as _, Result};
use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// For a rollback after a run that broke off: one operation, and all of it.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
const ROLLBACK_MAX: Duration = Duration::from_secs(90);

pub struct Experiment {
    pub script: RefCell<Script>,
    pub control: Option<Arc<dyn Control>>,
    watch: FleetWatch,
    marks: RefCell<Marks>,
    epoch: Instant,
}

impl Experiment {
    /// `None` for profiles of another shape. `start` is the start of the run on both clocks. Must be called inside a tokio
    /// runtime.
    pub fn of(
        profile: &Profile,
        plan: &Arc<Plan>,
        embedded: Option<&EmbeddedFleet>,
        folder: &RunFolder,
        start: (Instant, u64),
    ) -> Result<Option<Experiment>> {
        let (Some(script), Some(setting)) = (Script::of(profile, plan, start.1), &profile.scale_in) else {
            return Ok(None);
        };
        let fleet = Fleet::of(profile, embedded).context("the fleet")?;
        Ok(Some(Experiment {
            script: RefCell::new(script),
            watch: fleet.watch(),
            control: setting.control.then(|| Arc::new(Acting(fleet)) as Arc<dyn Control>),
            marks: RefCell::new(Marks::open(folder.path(), start.1)?),
            epoch: start.0,
        }))
    }

    /// Lines about what the fleet and people outside have said since the last time.
    pub fn news(&self) -> Vec<Line> {
        let t = |at: Instant| at.saturating_duration_since(self.epoch).as_secs_f64() * 1000.0;
        let views = self.watch.take().into_iter().map(|(at, v)| Line { t: t(at), event: Event::Fleet(v) });
        let mut lines: Vec<Line> = views.collect();
        lines.extend(self.marks.borrow_mut().take(t(Instant::now())));
        lines
    }

    /// The run broke off: what steps did is taken back all the same.
    pub async fn roll_back(&self, record: &mut dyn FnMut(Line)) {
        let elapsed = || self.epoch.elapsed();
        let mut tell = |event: Event| {
            let line = Line { t: elapsed().as_secs_f64() * 1000.0, event };
            self.script.borrow_mut().see(&line);
            record(line);
        };
        self.script.borrow_mut().interrupt(elapsed());
        let end = elapsed() + ROLLBACK_MAX;
        while elapsed() < end {
            let order = self.script.borrow_mut().due(elapsed());
            match order {
                Some(Order::Close) => return,
                Some(Order::Step(step)) => tell(Event::Step(step)),
                Some(Order::Act(step)) => {
                    tell(Event::Step(step.clone()));
                    let Some(control) = &self.control else { continue };
                    let act = control.act(step.action, step.server.clone());
                    let (stage, detail) = match tokio::time::timeout(ANSWER_WITHIN, act).await {
                        Ok(Ok(said)) => (StepStage::Done, said),
                        Ok(Err(why)) => (StepStage::Failed, why),
                        Err(_) => (StepStage::Failed, "no answer".to_owned()),
                    };
                    tell(Event::Step(StepEvent { stage, detail, ..step }));
                }
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

struct Acting(Fleet);

impl Control for Acting {
    fn act(&self, action: StepAction, server: Option<String>) -> BoxFuture<'static, Result<String, String>> {
        let fleet = self.0.clone();
        Box::pin(async move { fleet.act(action, server.as_deref()).await.map_err(|e| format!("{e:#}")) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan;
    use crate::profile::parse_resolved;
    use time::OffsetDateTime;

    const PROFILE: &str = r#"shape = "scale-in"
target = "there.toml"
seed = 5
[target_file]
driver = "janus"
[[target_file.servers]]
id = "j1"
url = "ws://127.0.0.1:9"
[target_file.fleet]
control = ["exec"]
[target_file.fleet.exec]
act = ["sh", "-c", "echo $ROOMFUL_ACTION $ROOMFUL_SERVER >> ACTS; test $ROOMFUL_ACTION != resume"]
[[rooms]]
name = "call"
count = 1
size = 2
audio = "opus@32kbit/s"
[load]
join = "10/s"
warmup = "1s"
hold = "60s"
[[step]]
name = "cordon"
do = "cordon"
server = "j1"
at = "0s"
[[step]]
name = "terminate"
do = "terminate"
after = "cordon"
delay = "50s"
[[rollback]]
do = "resume"
server_of = "cordon"
[[rollback]]
do = "uncordon"
server_of = "cordon"
"#;

    /// As after a media thread that died: the run is an error, and nobody asks the script any more.
    #[tokio::test]
    async fn what_was_done_is_taken_back_after_a_run_that_broke_off() {
        let dir = tempfile::tempdir().unwrap();
        let acts = dir.path().join("acts");
        let profile = PROFILE.replace("ACTS", acts.to_str().unwrap());
        let profile = parse_resolved(&profile).unwrap_or_else(|e| panic!("{e}"));
        let plan = Arc::new(plan::plan(&profile));
        let folder = RunFolder::create(dir.path(), "broken", OffsetDateTime::UNIX_EPOCH).unwrap();
        // Two seconds into the run.
        let epoch = Instant::now() - Duration::from_secs(2);
        let experiment = Experiment::of(&profile, &plan, None, &folder, (epoch, 1_000_000_000)).unwrap().unwrap();
        let mut began = Vec::new();
        while let Some(order) = experiment.script.borrow_mut().due(epoch.elapsed()) {
            if let Order::Act(step) = order {
                began.push(step);
            }
        }
        let [cordon] = &began[..] else { panic!("{began:?}") };
        assert_eq!((cordon.action, cordon.server.as_deref()), (StepAction::Cordon, Some("j1")));
        for stage in [StepStage::Begun, StepStage::Done] {
            let event = Event::Step(StepEvent { stage, ..cordon.clone() });
            experiment.script.borrow_mut().see(&Line { t: 2000.0, event });
        }
        let mut lines = Vec::new();
        experiment.roll_back(&mut |line| lines.push(line)).await;
        assert_eq!(std::fs::read_to_string(&acts).unwrap(), "resume j1\nuncordon j1\n", "the rest, though one failed");
        let told: Vec<(StepAction, StepStage, bool)> = lines
            .iter()
            .filter_map(|l| match &l.event {
                Event::Step(s) => Some((s.action, s.stage, s.rollback)),
                _ => None,
            })
            .collect();
        assert_eq!(
            told,
            [
                (StepAction::Terminate, StepStage::Skipped, false),
                (StepAction::Resume, StepStage::Begun, true),
                (StepAction::Resume, StepStage::Failed, true),
                (StepAction::Uncordon, StepStage::Begun, true),
                (StepAction::Uncordon, StepStage::Done, true),
            ]
        );
    }
}
