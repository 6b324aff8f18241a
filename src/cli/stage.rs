//! What a run and a probe share: the target started or found, and the engine's parts made ready.

use crate::client::policy;
use crate::engine::{Conductor, Turn, socket, start_of_run};
use crate::fleet::embedded::{EmbeddedFleet, EmbeddedOptions};
use crate::media::clip::ClipLibrary;
use crate::participant::Common;
use crate::plan::Plan;
use crate::profile::{Profile, Target};
use crate::signaling::embedded::EmbeddedDriver;
use crate::signaling::{self, Driver};
use crate::transport::{AllowList, Shared, Timing};
use crate::turn;
use crate::types::Via;
use anyhow::{Context as _, Result, bail};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// The target, and what is needed to reach it.
pub struct Stage {
    pub driver: Arc<dyn Driver>,
    /// Ours to stop, where we started it.
    pub fleet: Option<EmbeddedFleet>,
    pub conductor: Conductor,
    pub run_id: u32,
}

impl Stage {
    /// Starts or finds the target and prepares its rooms. The run's clock starts at the end of this.
    pub async fn set(profile: Arc<Profile>, plan: Arc<Plan>) -> Result<Stage> {
        let clips = Arc::new(ClipLibrary::load().context("the built-in clips")?);
        let (fleet, driver, mut allow) = match &profile.target {
            Target::Embedded(t) => {
                let options = EmbeddedOptions {
                    cpu_max: t.cpu_max,
                    placement: t.placement,
                    drain: t.drain,
                    autoscale: t.autoscale,
                    sin: t.sin,
                    turn: t.turn,
                    ..EmbeddedOptions::default()
                };
                let fleet = EmbeddedFleet::start(t.servers, t.participants_max, &options)
                    .await
                    .context("the embedded fleet")?;
                let driver: Arc<dyn Driver> = Arc::new(EmbeddedDriver::new(fleet.base_url())?);
                (Some(fleet), driver, Vec::new())
            }
            Target::External(t) => {
                let driver = signaling::driver(t, profile.client, profile.load.join_timeout)?;
                (None, driver, t.allow.clone())
            }
        };
        driver.prepare(&plan.rooms).await?;
        let hosts = driver.hosts();
        if let Target::External(t) = &profile.target
            && !t.authorized
            && let Some(h) = hosts.iter().find(|h| !is_private(**h))
        {
            bail!(
                "{h} is neither loopback nor private: set `authorized = true` in the target file if it is yours to load"
            );
        }
        let turn = turn_servers(&profile, fleet.as_ref()).await?;
        let relays = turn.ways.iter().map(|w| w.address.ip());
        let hosts: Vec<IpAddr> = hosts.into_iter().chain(relays).collect();
        allow.extend(hosts.iter().map(|h| (*h, if h.is_ipv4() { 32 } else { 128 })));
        let sources = sources(&profile, &hosts)?;
        if driver.serves_by_turn() {
            // Participants are each other's peers.
            allow.extend(sources.iter().map(|h| (*h, if h.is_ipv4() { 32 } else { 128 })));
        }
        let timing = Timing { connect: profile.load.join_timeout, ..Timing::default() };
        let run_id = rand::random();
        let common = Arc::new(Common {
            run: run_id,
            transport: Shared::new(policy(profile.client).suites, timing).context("certificate and DTLS settings")?,
            allow: Arc::new(AllowList::new(allow)),
            client: profile.client,
        });
        let shards = profile.shards.unwrap_or_else(|| default_shards(&profile));
        let (epoch, epoch_ns) = start_of_run();
        let conductor = Conductor {
            profile,
            plan,
            driver: driver.clone(),
            clips,
            common,
            shards,
            sources,
            turn: Arc::new(turn),
            epoch,
            epoch_ns,
            control: None,
        };
        Ok(Stage { driver, fleet, conductor, run_id })
    }

    /// Takes down what `set` put up.
    pub async fn strike(self) {
        self.driver.finish().await;
        if let Some(f) = self.fleet {
            f.stop().await;
        }
    }
}

/// The ways to TURN servers, their names resolved.
async fn turn_servers(profile: &Profile, fleet: Option<&EmbeddedFleet>) -> Result<Turn> {
    let mut ways = Vec::new();
    let mut verify = true;
    match &profile.target {
        Target::Embedded(_) => {
            for t in fleet.map(EmbeddedFleet::turn_servers).unwrap_or_default() {
                let (username, password) = (t.username.clone(), t.password.clone());
                let account = turn::Account::LongTerm { username, password };
                let (id, host) = (t.id.as_str().into(), t.listen.ip().to_string().into());
                ways.push(turn::Server { id, address: t.listen, via: Via::Udp, host, account, weight: 1.0 });
            }
        }
        Target::External(t) => {
            verify = t.tls_verify;
            for s in &t.turn {
                let found = tokio::net::lookup_host((s.host.as_str(), s.port)).await;
                let address = found.ok().and_then(|mut all| all.next());
                let address = address.with_context(|| format!("TURN server {}: no address of {}", s.id, s.host))?;
                if !t.authorized && !is_private(address.ip()) {
                    bail!(
                        "TURN server {} ({address}) is neither loopback nor private: set `authorized = true` in the \
                         target file if it is yours to load",
                        s.id
                    );
                }
                let secret = |name: &str| t.secrets.get(name).map(|s| s.0.clone()).unwrap_or_default();
                let user = s.username.clone();
                let account = match (&s.password_from, &s.secret_from) {
                    (Some(p), _) => turn::Account::LongTerm { username: user.unwrap_or_default(), password: secret(p) },
                    (None, Some(p)) => {
                        turn::Account::Secret { user: user.unwrap_or_else(|| "roomful".into()), secret: secret(p) }
                    }
                    (None, None) => bail!("TURN server {} has no credentials", s.id),
                };
                let (id, host) = (s.id.as_str().into(), s.host.as_str().into());
                ways.push(turn::Server { id, address, via: s.via, host, account, weight: s.weight });
            }
        }
    }
    let tls = signaling::tls_config(verify).context("TLS settings")?;
    Ok(Turn {
        ways,
        lifetime: profile.ice.lifetime,
        release: profile.ice.release,
        tls: Some(tls),
        by_route: profile.bind.is_empty(),
    })
}

/// One media thread a core; the embedded fleet gets half of them, signalling the last of more than two.
fn default_shards(profile: &Profile) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    match profile.target {
        Target::Embedded(_) => (cores / 2).max(1),
        Target::External(_) if cores > 2 => cores - 1,
        Target::External(_) => cores,
    }
}

fn sources(profile: &Profile, hosts: &[IpAddr]) -> Result<Vec<IpAddr>> {
    if !profile.bind.is_empty() {
        return Ok(profile.bind.clone());
    }
    let host = hosts.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    Ok(vec![socket::source_address(host).with_context(|| format!("no route to {host}"))?])
}

/// Loopback, link-local and private ranges (RFC 1918, RFC 6598, RFC 4193).
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v) => {
            let o = v.octets();
            v.is_loopback() || v.is_private() || v.is_link_local() || (o[0] == 100 && o[1] & 0xc0 == 64)
        }
        IpAddr::V6(v) => {
            v.is_loopback() || (v.segments()[0] & 0xfe00) == 0xfc00 || (v.segments()[0] & 0xffc0) == 0xfe80
        }
    }
}
