//! What a course has the fleet do: begun at once, answered later.

use crate::history::{StepAction, StepEvent, StepStage};
use crate::signaling::BoxFuture;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::{Id, JoinSet};

/// Whoever has not answered by now will not.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Carries out operations on the fleet.
pub trait Control: Send + Sync {
    /// Gives what was said to it once it is acknowledged, or why it failed.
    fn act(&self, action: StepAction, server: Option<String>) -> BoxFuture<'static, Result<String, String>>;
}

/// Operations under way.
#[derive(Default)]
pub(super) struct Acts {
    tasks: JoinSet<Result<String, String>>,
    steps: BTreeMap<Id, StepEvent>,
}

impl Acts {
    pub fn begin(&mut self, step: StepEvent, control: Option<&dyn Control>) {
        let act = control.map(|c| c.act(step.action, step.server.clone()));
        let task = self.tasks.spawn(async move {
            let Some(act) = act else { return Err("nothing here can act on the fleet".to_owned()) };
            tokio::time::timeout(ANSWER_WITHIN, act)
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {}", humantime::format_duration(ANSWER_WITHIN))))
        });
        self.steps.insert(task.id(), step);
    }

    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// The next one that is over, done or failed.
    pub async fn next(&mut self) -> Option<StepEvent> {
        let (id, answer) = match self.tasks.join_next_with_id().await? {
            Ok((id, answer)) => (id, answer),
            Err(e) => (e.id(), Err(format!("the backend broke: {e}"))),
        };
        let step = self.steps.remove(&id)?;
        let (stage, detail) = match answer {
            Ok(said) => (StepStage::Done, said),
            Err(why) => (StepStage::Failed, why),
        };
        Some(StepEvent { stage, detail, ..step })
    }

    /// The run ends: what is not answered has failed.
    pub fn give_up(&mut self) -> Vec<StepEvent> {
        self.tasks.abort_all();
        let detail = "no answer before the end of the run".to_owned();
        let failed = |s| StepEvent { stage: StepStage::Failed, detail: detail.clone(), ..s };
        std::mem::take(&mut self.steps).into_values().map(failed).collect()
    }
}
