//! A client that does not give up: it asks again, at whichever server it finds, until it is answered.

use std::sync::Arc;

use coretex_core::id::JobId;
use coretex_core::job::Job;
use coretex_engine::{Engine, Error, Result, SubmitJob, Submitted};
use coretex_store::layers::Faulty;
use coretex_testbench::{ADMIN, Tap, millis, pass, secs};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::Life;
use crate::points::{Point, Points, Strike, take_store_away};
use crate::process::until_dead;

/// A server as clients see it.
#[derive(Clone, Debug)]
pub(super) struct Door {
    pub(super) engine: Engine,
    pub(super) tap: Arc<Tap>,
    pub(super) link: Arc<Faulty>,
}

/// The servers that there are now.
pub(super) type Doors = Arc<Mutex<Vec<Door>>>;

/// A call that can be made again.
type Call<'a, T> = dyn Fn(Engine) -> BoxFuture<'static, Result<T>> + Send + Sync + 'a;

#[derive(Clone, Debug)]
pub(super) struct Client {
    points: Arc<Points>,
    doors: Doors,
}

impl Client {
    pub(super) fn new(points: &Arc<Points>, doors: Doors) -> Self {
        Self {
            points: Arc::clone(points),
            doors,
        }
    }

    /// What the client of a life does; the job as it is told that it has ended.
    pub(super) async fn story(self, life: Life, request: SubmitJob) -> Arc<Job> {
        let submitted = self.submit(request).await;
        let id = submitted.answer.job.id.clone();
        if matches!(life, Life::Cancelled | Life::Forced) {
            pass(millis(700)).await;
            self.cancel(&id, life == Life::Forced).await;
        }
        let mut job = submitted.answer.job;
        while !job.state.is_terminal() {
            job = self.wait(&id).await;
        }
        job
    }

    pub(super) async fn submit(&self, request: SubmitJob) -> Submitted {
        self.ask(&|engine| {
            let request = request.clone();
            async move { engine.submit_job(&ADMIN, request).await }.boxed()
        })
        .await
    }

    async fn cancel(&self, id: &JobId, force: bool) {
        self.ask(&|engine| {
            let id = id.clone();
            let cancel = async move {
                let grace = Some(secs(5));
                engine
                    .cancel_job(&ADMIN, &id, String::new(), grace, force)
                    .await
            };
            cancel.boxed()
        })
        .await;
    }

    async fn wait(&self, id: &JobId) -> Arc<Job> {
        self.ask(&|engine| {
            let id = id.clone();
            async move { engine.wait_job(&ADMIN, &id, secs(5), true).await }.boxed()
        })
        .await
        .job
    }

    async fn ask<T>(&self, call: &Call<'_, T>) -> T {
        for round in 0..500 {
            let doors = self.doors.lock().clone();
            let Some(door) = doors.get(round % doors.len().max(1)) else {
                pass(millis(100)).await;
                continue;
            };
            if let Some(answer) = self.ask_at(door, call).await {
                return answer;
            }
            pass(millis(100)).await;
        }
        panic!("never answered");
    }

    /// One call; `None` when it is not answered.
    async fn ask_at<T>(&self, door: &Door, call: &Call<'_, T>) -> Option<T> {
        let strike = self.points.reach(Point::Ask);
        match strike {
            Some(Strike::KillBefore) => {
                door.tap.kill();
                return None;
            }
            Some(Strike::Lost) => {
                pass(secs(1)).await;
                return None;
            }
            Some(Strike::Delayed) => pass(secs(3)).await,
            Some(Strike::Doubled) => drop(once(door, call).await),
            Some(away @ (Strike::StoreDown | Strike::StoreStall)) => {
                take_store_away(&door.link, away);
            }
            _ => {}
        }
        let answer = once(door, call).await;
        match strike {
            Some(Strike::KillAfter) => {
                door.tap.kill();
                None
            }
            Some(Strike::Cut) => None,
            _ => answer,
        }
    }
}

async fn once<T>(door: &Door, call: &Call<'_, T>) -> Option<T> {
    let answer = tokio::select! {
        biased;
        answer = call(door.engine.clone()) => answer,
        () = until_dead(&door.tap) => return None,
        () = pass(secs(12)) => return None,
    };
    match answer {
        Ok(answer) => Some(answer),
        Err(
            Error::OutcomeUnknown
            | Error::Unavailable { .. }
            | Error::Overloaded { .. }
            | Error::Contention
            | Error::Draining,
        ) => None,
        Err(error) => panic!("a client is told: {error}"),
    }
}
