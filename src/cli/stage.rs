//! What a run and a probe share: the target started or found, and the engine's parts made ready.

use crate::client::policy;
use crate::engine::{Conductor, Turn, socket, start_of_run};
use crate::fleet::embedded::{EmbeddedFleet, EmbeddedOptions};
use crate::media::clip::ClipLibrary;
use crate::participant::Common;
use crate::plan::Plan;
use crate::profile::fleet::JoinBy;
use crate::profile::{Profile, Target, is_private};
use crate::signaling::embedded::EmbeddedDriver;
use crate::signaling::{self, Driver};
use crate::transport::{AllowList, Shared, Timing};
use crate::turn;
use crate::types::{Simulcast, Via};
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
    /// Starts or finds the target and prepares its rooms, until `interrupt` is over ([`Interrupted`]). The run's clock
    /// starts at the end of this. An error leaves nothing behind.
    pub async fn set(profile: Arc<Profile>, plan: Arc<Plan>, interrupt: impl Future<Output = ()>) -> Result<Stage> {
        let (fleet, driver) = match &profile.target {
            Target::Embedded(t) => {
                let options = EmbeddedOptions {
                    cpu_max: t.cpu_max,
                    packet_cost: t.packet_cost,
                    unlike: t.unlike.clone(),
                    placement: t.placement,
                    drain: t.drain,
                    autoscale: t.autoscale,
                    last_n: t.last_n,
                    sin: t.sin,
                    turn: t.turn,
                    ..EmbeddedOptions::default()
                };
                let fleet = EmbeddedFleet::start(t.servers, t.participants_max, &options)
                    .await
                    .context("the embedded fleet")?;
                let driver: Arc<dyn Driver> = Arc::new(EmbeddedDriver::new(fleet.base_url())?);
                (Some(fleet), driver)
            }
            Target::External(t) => (None, signaling::driver(t, profile.client, profile.load.join_timeout)?),
        };
        Stage::with(profile, plan, driver, fleet, interrupt).await
    }

    async fn with(
        profile: Arc<Profile>,
        plan: Arc<Plan>,
        driver: Arc<dyn Driver>,
        fleet: Option<EmbeddedFleet>,
        interrupt: impl Future<Output = ()>,
    ) -> Result<Stage> {
        let made = tokio::select! {
            made = conductor(profile, plan, &driver, fleet.as_ref()) => made,
            () = interrupt => Err(Interrupted.into()),
        };
        match made {
            Ok(conductor) => Ok(Stage { run_id: conductor.common.run, driver, fleet, conductor }),
            Err(e) => {
                strike(driver, fleet).await;
                Err(e)
            }
        }
    }

    /// Takes down what `set` put up.
    pub async fn strike(self) {
        strike(self.driver, self.fleet).await;
    }
}

/// The user ended it before anybody joined.
#[derive(Debug, thiserror::Error)]
#[error("interrupted before the first join")]
pub struct Interrupted;

async fn strike(driver: Arc<dyn Driver>, fleet: Option<EmbeddedFleet>) {
    driver.finish().await;
    if let Some(f) = fleet {
        f.stop().await;
    }
}

/// Prepares the target's rooms, and makes the engine's parts ready.
async fn conductor(
    profile: Arc<Profile>,
    plan: Arc<Plan>,
    driver: &Arc<dyn Driver>,
    fleet: Option<&EmbeddedFleet>,
) -> Result<Conductor> {
    let clips = Arc::new(ClipLibrary::load().context("the built-in clips")?);
    // Names are resolved only now. Nobody is asked for anything before it is known whom that would be.
    authorized(&profile, &driver.hosts())?;
    asked(&profile).await?;
    let turn = turn_servers(&profile, fleet).await?;
    driver.prepare(&plan.rooms).await?;
    // A fleet's registry may name further ones.
    let hosts = driver.hosts();
    authorized(&profile, &hosts)?;
    let relays = turn.ways.iter().map(|w| w.address.ip());
    let hosts: Vec<IpAddr> = hosts.into_iter().chain(relays).collect();
    let mut allow = match &profile.target {
        Target::Embedded(_) => Vec::new(),
        Target::External(t) => t.allow.clone(),
    };
    allow.extend(hosts.iter().map(|h| (*h, if h.is_ipv4() { 32 } else { 128 })));
    let sources = sources(&profile, &hosts)?;
    if driver.serves_by_turn() {
        // Participants are each other's peers.
        allow.extend(sources.iter().map(|h| (*h, if h.is_ipv4() { 32 } else { 128 })));
    }
    let timing = Timing { connect: profile.load.join_timeout, ..Timing::default() };
    let common = Arc::new(Common {
        run: rand::random(),
        transport: Shared::new(policy(profile.client).suites, timing).context("certificate and DTLS settings")?,
        allow: Arc::new(AllowList::new(allow)),
        client: profile.client,
        simulcast: match &profile.target {
            Target::Embedded(_) => Simulcast::Rid,
            Target::External(t) => t.simulcast,
        },
    });
    let shards = profile.shards.unwrap_or_else(|| default_shards(&profile));
    let (epoch, epoch_ns) = start_of_run();
    Ok(Conductor {
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
    })
}

/// Errors: a host that only its owner may load, and nobody has said that it is ours.
fn authorized(profile: &Profile, hosts: &[IpAddr]) -> Result<()> {
    if let Target::External(t) = &profile.target
        && !t.authorized
        && let Some(h) = hosts.iter().find(|h| !is_private(**h))
    {
        bail!("{h} is neither loopback nor private: set `authorized = true` in the target file if it is yours to load");
    }
    Ok(())
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

/// The same for whom the target file has us ask besides the servers and their TURN servers: the join API, backends of the
/// fleet. Media may not go there. Who has no address is asked for nothing, and whoever wants to ask says so.
async fn asked(profile: &Profile) -> Result<()> {
    let Target::External(t) = &profile.target else { return Ok(()) };
    if t.authorized {
        return Ok(());
    }
    let join =
        t.join.iter().filter_map(|j| if let JoinBy::Http(url) = &j.by { Some(("join.http", url)) } else { None });
    let http = t.fleet.http.iter().flat_map(|h| [("fleet.http.look", &h.look), ("fleet.http.act", &h.act)]);
    let of_servers = t.servers.iter().flat_map(|s| [("admin", &s.admin), ("metrics", &s.metrics)]);
    let of_turn = t.turn.iter().flat_map(|s| [("metrics", &s.metrics), ("statsdb", &s.statsdb)]);
    let optional = http.chain(of_servers).chain(of_turn).filter_map(|(key, url)| Some((key, url.as_ref()?)));
    let redis = t.fleet.redis.iter().map(|r| ("fleet.redis.url", &r.url));
    for (key, url) in join.chain(optional).chain(redis) {
        let Some((host, port)) = reqwest::Url::parse(url).ok().and_then(|url| {
            Some((url.host_str()?.trim_matches(['[', ']']).to_owned(), url.port_or_known_default().unwrap_or(1)))
        }) else {
            continue;
        };
        let Ok(addresses) = tokio::net::lookup_host((host.as_str(), port)).await else { continue };
        let addresses: Vec<IpAddr> = addresses.map(|a| a.ip()).collect();
        authorized(profile, &addresses).with_context(|| format!("{key} of the target file ({host})"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{self, PlannedRoom};
    use crate::signaling::{BoxFuture, Call, Ended};
    use std::sync::Mutex;

    const PROFILE: &str = "shape = \"steady\"\ntarget = \"t.toml\"\n[[rooms]]\nname = \"m\"\ncount = 1\nsize = 2\n\
        audio = \"opus@32kbit/s\"\n[load]\njoin = \"1/s\"\nhold = \"9s\"\n[pass]\n\"legs.dropped\" = \"== 0\"\n\
        [target_file]\ndriver = \"janus\"\n[[target_file.servers]]\nid = \"j1\"\nurl = \"ws://127.0.0.1:9\"\n";

    /// Takes down what it is asked for.
    struct Noting {
        hosts: [Vec<IpAddr>; 2],
        asked: Mutex<Vec<&'static str>>,
        /// It never gets ready.
        slow: bool,
    }

    impl Noting {
        /// `later`: what it finds when it prepares.
        fn new(first: &str, later: &str) -> Arc<Noting> {
            Arc::new(Noting::of(first, later))
        }

        fn of(first: &str, later: &str) -> Noting {
            let hosts = [first, later].map(|h| vec![h.parse().unwrap()]);
            Noting { hosts, asked: Mutex::default(), slow: false }
        }
    }

    impl Driver for Noting {
        fn name(&self) -> &'static str {
            "noting"
        }
        fn prepare<'a>(&'a self, _: &'a [PlannedRoom]) -> BoxFuture<'a, Result<()>> {
            self.asked.lock().unwrap().push("prepare");
            Box::pin(async {
                if self.slow {
                    std::future::pending::<()>().await;
                }
                Ok(())
            })
        }
        fn run<'a>(&'a self, _: Call) -> BoxFuture<'a, Ended> {
            unreachable!("nobody joins")
        }
        fn finish<'a>(&'a self) -> BoxFuture<'a, ()> {
            self.asked.lock().unwrap().push("finish");
            Box::pin(async {})
        }
        fn hosts(&self) -> Vec<IpAddr> {
            self.hosts[self.asked.lock().unwrap().len()].clone()
        }
    }

    async fn set(driver: &Arc<Noting>, more: &str) -> Result<Stage, String> {
        let profile = Arc::new(crate::profile::parse_resolved(&format!("{PROFILE}{more}")).unwrap());
        let plan = Arc::new(plan::plan(&profile));
        Stage::with(profile, plan, driver.clone(), None, std::future::pending()).await.map_err(|e| format!("{e:#}"))
    }

    /// Ctrl-C while the target is slow to prepare: what has been made until then is taken down.
    #[tokio::test]
    async fn an_interrupted_preparation_is_taken_back() {
        let slow = Arc::new(Noting { slow: true, ..Noting::of("127.0.0.1", "127.0.0.1") });
        let profile = Arc::new(crate::profile::parse_resolved(PROFILE).unwrap());
        let plan = Arc::new(plan::plan(&profile));
        let interrupt = async {
            while slow.asked.lock().unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        let error = Stage::with(profile, plan, slow.clone(), None, interrupt).await.err().unwrap();
        assert!(error.is::<Interrupted>(), "{error:#}");
        assert_eq!(*slow.asked.lock().unwrap(), ["prepare", "finish"]);
    }

    #[tokio::test]
    async fn a_stranger_is_refused_before_anything_is_asked_of_it() {
        let stranger = Noting::new("192.0.2.1", "192.0.2.1");
        let error = set(&stranger, "").await.err().unwrap();
        assert!(error.contains("192.0.2.1") && error.contains("authorized = true"), "{error}");
        assert_eq!(*stranger.asked.lock().unwrap(), ["finish"]);
    }

    /// A name, as far as the profile can tell: who resolves it finds 192.0.2.1 behind it.
    #[tokio::test]
    async fn nobody_else_is_asked_either_before_it_is_known_who_that_is() {
        const HOST: &str = "3221225985";
        for (key, more) in [
            ("join.http", format!("[target_file.join]\nhttp = \"http://{HOST}/join?key=S3cret\"\n")),
            ("metrics", format!("metrics = \"http://{HOST}/metrics\"\n")),
            (
                "fleet.http.look",
                format!(
                    "[target_file.fleet]\ndiscovery = [\"http\"]\n[target_file.fleet.http]\nlook = \"http://{HOST}/\"\n"
                ),
            ),
        ] {
            let friend = Noting::new("127.0.0.1", "127.0.0.1");
            let error = set(&friend, &more).await.err().unwrap_or_else(|| panic!("{key} was not looked at"));
            assert!(error.starts_with(&format!("{key} of the target file")), "{error}");
            assert!(error.contains("192.0.2.1") && error.contains("authorized = true"), "{error}");
            assert!(!error.contains("S3cret"), "{error}");
            assert_eq!(*friend.asked.lock().unwrap(), ["finish"]);
            let may =
                format!("{PROFILE}{more}").replace("driver = \"janus\"\n", "driver = \"janus\"\nauthorized = true\n");
            let profile = crate::profile::parse_resolved(&may).unwrap();
            assert!(asked(&profile).await.is_ok(), "{key}");
        }
    }

    #[tokio::test]
    async fn what_was_prepared_is_removed_when_the_rest_fails() {
        let friend_of_strangers = Noting::new("127.0.0.1", "192.0.2.1");
        assert!(set(&friend_of_strangers, "").await.err().unwrap().contains("192.0.2.1"));
        assert_eq!(*friend_of_strangers.asked.lock().unwrap(), ["prepare", "finish"]);

        let ours = Noting::new("127.0.0.1", "127.0.0.1");
        let stage = set(&ours, "").await.unwrap();
        assert_eq!(*ours.asked.lock().unwrap(), ["prepare"]);
        stage.strike().await;
        assert_eq!(*ours.asked.lock().unwrap(), ["prepare", "finish"]);
    }

    #[tokio::test]
    async fn a_turn_server_without_an_address_is_known_before_rooms_are_made() {
        let turn = "[[target_file.turn]]\nid = \"t1\"\nurl = \"turn:no-such-host.invalid:3478\"\n\
            username = \"u\"\npassword_from = \"p\"\n[target_file.secrets]\np = \"env:PATH\"\n";
        let driver = Noting::new("127.0.0.1", "127.0.0.1");
        let error = set(&driver, turn).await.err().unwrap();
        assert!(error.contains("no address of no-such-host.invalid"), "{error}");
        assert_eq!(*driver.asked.lock().unwrap(), ["finish"]);
    }
}
