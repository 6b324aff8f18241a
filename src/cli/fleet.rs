//! `roomful fleet`: the embedded fleet on its own, to try things against.

use crate::fleet::embedded::{Advertise, EmbeddedFleet, EmbeddedOptions};
use crate::types::{Autoscale, Drain, Placement, Sin};
use std::io::Write;
use std::net::{IpAddr, SocketAddr};

/// Start the embedded fleet, to try things against; Ctrl-C ends it.
#[derive(clap::Args, Clone, Debug)]
pub struct FleetArgs {
    /// Servers, each a process of its own.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub servers: u32,
    /// Participants a server takes; beyond that it answers 503.
    #[arg(long, default_value_t = 200)]
    pub participants_max: u32,
    /// Address that clients send media to.
    #[arg(long, default_value = "127.0.0.1")]
    pub media_ip: IpAddr,
    /// SERVER=ADDRESS: answers of that server name this address instead of --media-ip, with the same port. For what
    /// stands in front of it, as `roomful impair` does (repeatable).
    #[arg(long, value_name = "SERVER=ADDRESS")]
    pub advertise: Vec<Advertise>,
    /// How a server that is to end gets rid of its calls: wait, move or rejoin.
    #[arg(long, default_value_t)]
    pub drain: Drain,
    /// Servers come and go by themselves: JSON with per_server (participants), servers_min, servers_max, every_ms.
    #[arg(long, value_name = "JSON")]
    pub autoscale: Option<Autoscale>,
    /// Where the participants of a room go: affinity, all to one server; spread, in turn to all servers, which hand the
    /// room's media to each other.
    #[arg(long, default_value_t)]
    pub placement: Placement,
    /// Last-N: participants get the video of so many senders, those who talked last. Left out: of all.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub last_n: Option<u32>,
    /// Commit this fault on purpose (docs/embedded-fleet.md lists them).
    #[arg(long)]
    pub sin: Option<Sin>,
    /// TURN servers beside them, each a process of its own.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=64))]
    pub turn: u32,
    /// Where the director listens; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:7080")]
    pub http: SocketAddr,
}

/// Runs until Ctrl-C.
///
/// # Errors
/// When the fleet does not start, or its director ends by itself.
pub fn run(args: &FleetArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let options = EmbeddedOptions {
            media_ip: args.media_ip,
            http: args.http,
            advertise: args.advertise.clone(),
            placement: args.placement,
            drain: args.drain,
            autoscale: args.autoscale,
            last_n: args.last_n,
            sin: args.sin,
            turn: args.turn,
            ..EmbeddedOptions::default()
        };
        let mut fleet = EmbeddedFleet::start(args.servers, args.participants_max, &options).await?;
        write_help(&fleet, is_named(args), &mut std::io::stdout().lock())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted?,
            status = fleet.ended() => anyhow::bail!("the director ended by itself: {}", status?),
        }
        fleet.stop().await;
        Ok(())
    })
}

/// A target file can name the servers: the director sends rooms to them, and they are the same ones all the time.
fn is_named(args: &FleetArgs) -> bool {
    args.placement == Placement::Affinity && args.autoscale.is_none()
}

/// The target file, each line indented.
fn target_file(base: &str, servers: &[(&str, &str)]) -> String {
    let server = |(id, url): &(&str, &str)| format!("    [[servers]]\n    id  = \"{id}\"\n    url = \"{url}\"\n");
    match servers {
        [] => format!("    driver = \"embedded\"\n{}", server(&("fleet", base))),
        all => format!(
            "    driver   = \"embedded\"\n    director = \"{base}\"\n{}",
            all.iter().map(server).collect::<String>()
        ),
    }
}

fn write_help(fleet: &EmbeddedFleet, named: bool, out: &mut impl Write) -> std::io::Result<()> {
    let base = fleet.base_url();
    for server in fleet.servers() {
        writeln!(
            out,
            "server {:<4} pid {:<8} media {:<22} {}/metrics",
            server.id, server.pid, server.media, server.http
        )?;
    }
    for t in fleet.turn_servers() {
        writeln!(
            out,
            "TURN {:<6} pid {:<8} turn:{} username {} password {}  {}/stats",
            t.id, t.pid, t.listen, t.username, t.password, t.http
        )?;
    }
    writeln!(out, "\nWith a browser   {base}/?room=demo&name=me")?;
    writeln!(out, "State            {base}/registry")?;
    writeln!(out, "Control          POST {base}/servers/SERVER/cordon, uncordon, terminate, kill, pause or resume")?;
    writeln!(
        out,
        "Join             POST an SDP offer to {base}/rooms/ROOM/participants/NAME, DELETE the Location to leave"
    )?;
    writeln!(out, "From a profile   target = \"targets/fleet.toml\", and in that file:\n")?;
    let servers: Vec<(&str, &str)> =
        fleet.servers().iter().filter(|_| named).map(|s| (s.id.as_str(), s.http.as_str())).collect();
    writeln!(out, "{}", target_file(base, &servers))?;
    writeln!(out, "Ctrl-C ends it.")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Target, load};

    /// What it prints is a target file, and a search with it knows its servers.
    #[test]
    fn the_target_file_that_is_printed_can_be_used() {
        let folder = tempfile::tempdir().unwrap();
        let profile = folder.path().join("p.toml");
        std::fs::write(
            &profile,
            "shape = \"capacity\"\ntarget = \"t.toml\"\n[[rooms]]\nname = \"m\"\ncount = 1\nsize = 4\naudio = \"opus@32kbit/s\"\n\
             [search]\nrange = \"4..40\"\njoin = \"10/s\"\n[objectives]\n\"audio.loss\" = \"<= 1%\"\n",
        )
        .unwrap();
        let of = |servers: &[(&str, &str)]| {
            std::fs::write(folder.path().join("t.toml"), target_file("http://127.0.0.1:7080", servers)).unwrap();
            let p = load(&profile, &[]).unwrap_or_else(|e| panic!("{e}"));
            let loaded = p.target.loaded(None);
            let Target::External(t) = p.target else { panic!("external") };
            assert_eq!(t.director(), Some("http://127.0.0.1:7080"));
            loaded
        };
        let both = [("s1", "http://127.0.0.1:4001"), ("s2", "http://127.0.0.1:4002")];
        assert_eq!(of(&both), [Some("s1".to_owned()), Some("s2".to_owned())]);
        assert_eq!(of(&[]), [None]);
    }
}
