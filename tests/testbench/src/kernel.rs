//! A kernel that says what it is told to say.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coretex_core::policy::evaluate::{History, RateTaken};
use coretex_core::policy::terms::ApprovalTerms;
use coretex_core::policy::{Decision, JobDecision};
use coretex_engine::{Facts, Judgement, Kernel, Undecided};
use parking_lot::Mutex;

/// What the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Allow,
    Deny,
    Approval,
    /// Not before this long from now.
    Throttle(Duration),
    /// Nothing: it is broken.
    Trouble,
}

#[derive(Debug)]
pub struct Script {
    answer: Mutex<Answer>,
    snapshot: Mutex<String>,
    rule: Mutex<String>,
    terms: Mutex<ApprovalTerms>,
    rates: Mutex<Vec<RateTaken>>,
    asked: AtomicU64,
}

impl Script {
    pub fn new(answer: Answer) -> Arc<Self> {
        Arc::new(Self {
            answer: Mutex::new(answer),
            snapshot: Mutex::new("script-1".to_owned()),
            rule: Mutex::default(),
            terms: Mutex::default(),
            rates: Mutex::default(),
            asked: AtomicU64::new(0),
        })
    }

    pub fn say(&self, answer: Answer) {
        *self.answer.lock() = answer;
    }

    /// From now on this rule decides, and an approval has to be like this.
    pub fn ask(&self, rule: &str, terms: ApprovalTerms) {
        *self.rule.lock() = rule.to_owned();
        *self.terms.lock() = terms;
        self.say(Answer::Approval);
    }

    /// What is approved has to keep to these rates as well.
    pub fn limit(&self, rates: Vec<RateTaken>) {
        *self.rates.lock() = rates;
    }

    /// From now on it decides under this snapshot. Which one is in force, the store says
    /// ([`Bench::enforce`](crate::Bench::enforce)).
    pub fn publish(&self, snapshot: &str) {
        *self.snapshot.lock() = snapshot.to_owned();
    }

    /// How often it was asked.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Kernel for Script {
    fn snapshot(&self) -> String {
        self.snapshot.lock().clone()
    }

    fn judge(&self, facts: Facts<'_>, _: &History) -> Result<Judgement, Undecided> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let answer = *self.answer.lock();
        let (decision, retry_at) = match answer {
            Answer::Allow => (Decision::Allow, None),
            Answer::Deny => (Decision::Deny, None),
            Answer::Approval => (Decision::RequireApproval, None),
            Answer::Throttle(pause) => (Decision::Throttle, Some(facts.now + pause)),
            Answer::Trouble => return Err(Undecided::Trouble("it is broken".to_owned())),
        };
        let mut judged = JobDecision::plain(decision, self.snapshot(), facts.now);
        judged.reason = "the script says so".to_owned();
        judged.retry_at = retry_at;
        judged.rule_id.clone_from(&self.rule.lock());
        let mut judgement = Judgement::from(judged);
        if decision == Decision::RequireApproval {
            judgement.terms = Some(self.terms.lock().clone());
            judgement.rates.clone_from(&self.rates.lock());
        }
        Ok(judgement)
    }
}
