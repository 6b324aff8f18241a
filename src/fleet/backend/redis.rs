//! `redis`: a registry in Redis. Secrets: `redis_user` and `redis_password`.

use super::process::{read_pid, send};
use super::{ActError, Backend, Look};
use crate::history::{ServerSeen, StepAction};
use crate::outside;
use crate::profile::ExternalTarget;
use crate::profile::fleet::{RedisBackend, RedisKey, RedisPlace};
use anyhow::{Context as _, Result, anyhow, bail};
use futures_util::future::BoxFuture;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, IntoConnectionInfo};
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// A restarted registry is there again within.
const BACK_WITHIN: Duration = Duration::from_secs(30);
const AGAIN_EVERY: Duration = Duration::from_millis(100);
/// Keys that one SCAN looks at.
const SCAN_COUNT: u32 = 1000;

pub(super) struct Registry {
    settings: RedisBackend,
    /// Of the target file: seen also when the registry says nothing of them.
    servers: Vec<String>,
    client: redis::Client,
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl Registry {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// A URL that is none.
    pub fn new(settings: RedisBackend, target: &ExternalTarget) -> Result<Registry> {
        let client = client(&settings.url, target)?;
        let servers = target.servers.iter().map(|s| s.id.clone()).collect();
        Ok(Registry { settings, servers, client, connection: Mutex::new(None) })
    }

    async fn connect(&self) -> Result<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.settings.timeout))
            .set_response_timeout(Some(self.settings.timeout));
        Ok(self.client.get_multiplexed_async_connection_with_config(&config).await?)
    }

    /// Works on the kept connection, or a new one; one that made trouble is not kept.
    async fn with<T>(&self, work: impl AsyncFnOnce(&mut MultiplexedConnection) -> Result<T>) -> Result<T> {
        let mut kept = self.connection.lock().await;
        let whole = async {
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            let done = work(&mut connection).await?;
            *kept = Some(connection);
            Ok(done)
        };
        // Many keys, one patience: each of them has one of its own.
        let limit = self.settings.timeout * 4;
        outside::within(limit, "registry", whole).await.with_context(|| self.settings.url.clone())
    }

    async fn seen(&self, c: &mut MultiplexedConnection) -> Result<Look> {
        let s = &self.settings;
        let mut names: BTreeSet<String> = self.servers.iter().cloned().collect();
        for key in [&s.alive, &s.listed].into_iter().flatten() {
            names.extend(holders(c, key).await?);
        }
        let mut servers = Vec::new();
        for name in names {
            let mut seen = ServerSeen { server: name.clone(), ..ServerSeen::default() };
            for (key, slot) in [(&s.alive, &mut seen.alive), (&s.listed, &mut seen.listed)] {
                if let Some(key) = key {
                    *slot = Some(exists(c, key, &name).await?);
                }
            }
            if let Some(key) = &s.cordoned {
                let flag = value(c, key, &name).await?;
                seen.cordoned = Some(flag.is_some_and(|v| !matches!(v.as_str(), "" | "0" | "false" | "no")));
            }
            seen.headroom = number(c, &s.headroom, &name).await?;
            seen.sessions = number(c, &s.sessions, &name).await?;
            seen.participants = number(c, &s.participants, &name).await?;
            servers.push(seen);
        }
        let rooms = match &s.rooms {
            Some(key) => Some(values(c, key).await?),
            None => None,
        };
        Ok(Look { servers, rooms })
    }

    async fn cordon(&self, server: &str, on: bool) -> Result<String, ActError> {
        let Some(key) = &self.settings.cordoned else { return Err(ActError::Unsupported) };
        let mut command = redis::Cmd::new();
        let word = match (&key.place, on) {
            (RedisPlace::Set { .. }, true) => "SADD",
            (RedisPlace::Set { .. }, false) => "SREM",
            (RedisPlace::Key { field: None, .. }, true) => "SET",
            (RedisPlace::Key { field: None, .. }, false) => "DEL",
            (_, true) => "HSET",
            (_, false) => "HDEL",
        };
        let (name, field) = place(key, server);
        command.arg(word).arg(&name);
        if let Some(field) = &field {
            command.arg(field);
        }
        if on && word != "SADD" {
            command.arg("1");
        }
        self.with(async |c| Ok(command.query_async::<()>(c).await?)).await?;
        Ok(format!("{word} {name}{}", field.map(|f| format!(" {f}")).unwrap_or_default()))
    }

    async fn pause(&self) -> Result<String> {
        if let Some(file) = &self.settings.pid_file {
            let pid = read_pid(file.as_ref())?;
            send(pid, Signal::STOP).with_context(|| format!("SIGSTOP to {}", pid.as_raw_nonzero()))?;
            return Ok(format!("SIGSTOP to process {}", pid.as_raw_nonzero()));
        }
        let ms = self.settings.pause.as_millis() as u64;
        self.with(async |c| Ok(redis::cmd("CLIENT").arg("PAUSE").arg(ms).arg("ALL").query_async::<()>(c).await?))
            .await?;
        Ok(format!("CLIENT PAUSE {ms} ALL"))
    }

    async fn resume(&self) -> Result<String> {
        if let Some(file) = &self.settings.pid_file {
            let pid = read_pid(file.as_ref())?;
            send(pid, Signal::CONT).with_context(|| format!("SIGCONT to {}", pid.as_raw_nonzero()))?;
            return Ok(format!("SIGCONT to process {}", pid.as_raw_nonzero()));
        }
        self.answers_within(self.settings.pause + self.settings.timeout).await?;
        Ok("it answers again".to_owned())
    }

    async fn restart(&self) -> Result<String, ActError> {
        if self.settings.restart.is_empty() {
            return Err(ActError::Unsupported);
        }
        let said = outside::run(&self.settings.restart, &[], BACK_WITHIN).await?;
        self.answers_within(BACK_WITHIN).await?;
        Ok(format!("restarted: {}", outside::quoted(&said)))
    }

    async fn answers_within(&self, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        loop {
            match self.with(async |c| Ok(redis::cmd("PING").query_async::<()>(c).await?)).await {
                Ok(()) => return Ok(()),
                Err(e) if Instant::now() >= until => {
                    return Err(e.context(format!("no answer within {} s", limit.as_secs())));
                }
                Err(_) => tokio::time::sleep(AGAIN_EVERY).await,
            }
        }
    }
}

/// Connects to nothing yet. User and password are those of the target's secrets.
///
/// # Errors
/// A URL that is none.
pub(super) fn client(url: &str, target: &ExternalTarget) -> Result<redis::Client> {
    let info = url.into_connection_info().with_context(|| url.to_owned())?;
    let mut login = info.redis_settings().clone();
    if let Some(user) = target.secrets.get("redis_user") {
        login = login.set_username(&user.0);
    }
    if let Some(password) = target.secrets.get("redis_password") {
        login = login.set_password(&password.0);
    }
    redis::Client::open(info.set_redis_settings(login)).with_context(|| url.to_owned())
}

/// Key and, where the value is a member or a field in it, that one's name.
fn place(key: &RedisKey, holder: &str) -> (String, Option<String>) {
    match &key.place {
        RedisPlace::Key { before, behind, field } => (format!("{before}{holder}{behind}"), field.clone()),
        RedisPlace::Field { key, before, behind } => (key.clone(), Some(format!("{before}{holder}{behind}"))),
        RedisPlace::Set { key } => (key.clone(), Some(holder.to_owned())),
    }
}

async fn ask<T: FromRedisValue>(c: &mut MultiplexedConnection, command: &redis::Cmd, key: &str) -> Result<T> {
    command.query_async(c).await.with_context(|| format!("key {key}"))
}

/// What is there for one holder; for a member of a set, its name.
async fn value(c: &mut MultiplexedConnection, key: &RedisKey, holder: &str) -> Result<Option<String>> {
    let (name, field) = place(key, holder);
    if let (RedisPlace::Set { .. }, Some(member)) = (&key.place, &field) {
        let is: bool = ask(c, redis::cmd("SISMEMBER").arg(&name).arg(member), &name).await?;
        return Ok(is.then(|| member.clone()));
    }
    match field {
        Some(field) => ask(c, redis::cmd("HGET").arg(&name).arg(field), &name).await,
        None => ask(c, redis::cmd("GET").arg(&name), &name).await,
    }
}

/// A key of any type will do.
async fn exists(c: &mut MultiplexedConnection, key: &RedisKey, holder: &str) -> Result<bool> {
    match &key.place {
        RedisPlace::Key { field: None, .. } => {
            let (name, _) = place(key, holder);
            ask(c, redis::cmd("EXISTS").arg(&name), &name).await
        }
        _ => Ok(value(c, key, holder).await?.is_some()),
    }
}

/// `Some` where the registry says something. A value that is no such number is an error: it is no zero.
async fn number<N: std::str::FromStr>(
    c: &mut MultiplexedConnection,
    key: &Option<RedisKey>,
    holder: &str,
) -> Result<Option<N>> {
    let Some(key) = key else { return Ok(None) };
    let Some(text) = value(c, key, holder).await? else { return Ok(None) };
    match text.trim().parse() {
        Ok(n) => Ok(Some(n)),
        Err(_) => bail!("{} of {holder} is {text:?}, no such number", key.text),
    }
}

/// Who has such a key, field or membership.
async fn holders(c: &mut MultiplexedConnection, key: &RedisKey) -> Result<Vec<String>> {
    match &key.place {
        RedisPlace::Set { key } => ask(c, redis::cmd("SMEMBERS").arg(key), key).await,
        RedisPlace::Field { key, before, behind } => {
            let fields: Vec<String> = ask(c, redis::cmd("HKEYS").arg(key), key).await?;
            Ok(fields.iter().filter_map(|f| between(f, before, behind)).collect())
        }
        RedisPlace::Key { before, behind, .. } => {
            let keys = scan(c, before, behind).await?;
            Ok(keys.iter().filter_map(|k| between(k, before, behind)).collect())
        }
    }
}

/// Holder → value.
async fn values(c: &mut MultiplexedConnection, key: &RedisKey) -> Result<BTreeMap<String, String>> {
    match &key.place {
        RedisPlace::Set { key } => bail!("key {key}: a set has no values"),
        RedisPlace::Field { key, before, behind } => {
            let all: BTreeMap<String, String> = ask(c, redis::cmd("HGETALL").arg(key), key).await?;
            Ok(all.into_iter().filter_map(|(f, v)| Some((between(&f, before, behind)?, v))).collect())
        }
        RedisPlace::Key { before, behind, field } => {
            let keys = scan(c, before, behind).await?;
            if keys.is_empty() {
                return Ok(BTreeMap::new());
            }
            let mut all = redis::pipe();
            for key in &keys {
                match field {
                    Some(field) => all.cmd("HGET").arg(key).arg(field),
                    None => all.cmd("GET").arg(key),
                };
            }
            let values: Vec<Option<String>> =
                all.query_async(c).await.with_context(|| format!("keys {before}*{behind}"))?;
            let pairs = keys.iter().zip(values);
            // One that expired meanwhile is gone.
            Ok(pairs.filter_map(|(k, v)| Some((between(k, before, behind)?, v?))).collect())
        }
    }
}

async fn scan(c: &mut MultiplexedConnection, before: &str, behind: &str) -> Result<Vec<String>> {
    let pattern = format!("{}*{}", escaped(before), escaped(behind));
    let (mut cursor, mut found) = (0u64, BTreeSet::new());
    loop {
        let mut command = redis::cmd("SCAN");
        command.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCAN_COUNT);
        let (next, keys): (u64, Vec<String>) = ask(c, &command, &pattern).await?;
        // SCAN may give a key twice.
        found.extend(keys);
        cursor = next;
        if cursor == 0 {
            return Ok(found.into_iter().collect());
        }
    }
}

/// Text that stands for itself in a pattern.
fn escaped(text: &str) -> String {
    text.chars().flat_map(|c| "*?[]\\".contains(c).then_some('\\').into_iter().chain([c])).collect()
}

fn between(text: &str, before: &str, behind: &str) -> Option<String> {
    let holder = text.strip_prefix(before)?.strip_suffix(behind)?;
    (!holder.is_empty()).then(|| holder.to_owned())
}

impl Backend for Registry {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn look(&self) -> BoxFuture<'_, Result<Look>> {
        Box::pin(self.with(async |c| self.seen(c).await))
    }

    fn act<'a>(&'a self, action: StepAction, server: Option<&'a str>) -> BoxFuture<'a, Result<String, ActError>> {
        Box::pin(async move {
            let named = || server.ok_or_else(|| anyhow!("which server?"));
            match action {
                StepAction::Cordon => self.cordon(named()?, true).await,
                StepAction::Uncordon => self.cordon(named()?, false).await,
                StepAction::RegistryPause => Ok(self.pause().await?),
                StepAction::RegistryResume => Ok(self.resume().await?),
                StepAction::RegistryFlush => {
                    self.with(async |c| Ok(redis::cmd("FLUSHDB").query_async::<()>(c).await?)).await?;
                    Ok("FLUSHDB".to_owned())
                }
                StepAction::RegistryRestart => self.restart().await,
                _ => Err(ActError::Unsupported),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_hold_no_wild_cards_of_the_users() {
        assert_eq!(escaped("a*b?[c]\\:"), "a\\*b\\?\\[c\\]\\\\:");
        assert_eq!(between("sfu:a:alive", "sfu:", ":alive").as_deref(), Some("a"));
        assert_eq!((between("sfu::alive", "sfu:", ":alive"), between("x", "sfu:", "")), (None, None));
    }
}
