//! A real redis-server, started and ended by a test.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub struct Redis {
    pub address: SocketAddr,
    pub folder: tempfile::TempDir,
    server: Child,
}

impl Redis {
    /// At a free port.
    pub fn start(ip: IpAddr) -> Redis {
        // The listener has to be gone before redis binds.
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        Redis::start_at(address)
    }

    pub fn start_at(address: SocketAddr) -> Redis {
        let folder = tempfile::tempdir().unwrap();
        let server = spawn(address, &folder.path().join("redis.pid"), folder.path());
        let redis = Redis { address, folder, server };
        redis.connection();
        redis
    }

    pub fn pid_file(&self) -> PathBuf {
        self.folder.path().join("redis.pid")
    }

    /// A shell line that ends it and starts another one at the same port, without its data, in our process group.
    pub fn restart_line(&self) -> String {
        let (port, ip, pid) = (self.address.port(), self.address.ip(), self.pid_file());
        let dir = self.folder.path().display();
        format!(
            "kill $(cat {pid}); while kill -0 $(cat {pid} 2>/dev/null || echo 0x) 2>/dev/null; do sleep 0.05; done; \
             redis-server --port {port} --bind {ip} --save '' --dir {dir} --pidfile {pid} --daemonize yes \
             --protected-mode no > /dev/null && echo done",
            pid = pid.display()
        )
    }

    /// Waits until it answers.
    pub fn connection(&self) -> redis::Connection {
        let client = redis::Client::open(format!("redis://{}/", self.address)).unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            match client.get_connection_with_timeout(Duration::from_secs(2)) {
                Ok(c) => return c,
                Err(e) if Instant::now() > until => panic!("redis-server at {}: {e}", self.address),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// One command, words apart.
    pub fn tell(&self, words: &[&str]) {
        let mut c = self.connection();
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(word);
        }
        command.query::<redis::Value>(&mut c).unwrap();
    }
}

fn spawn(address: SocketAddr, pid_file: &std::path::Path, folder: &std::path::Path) -> Child {
    Command::new("redis-server")
        .args(["--port", &address.port().to_string(), "--bind", &address.ip().to_string()])
        .args(["--save", "", "--protected-mode", "no"])
        .args(["--dir".as_ref(), folder.as_os_str()])
        // Written by daemons and where it is named, also without `--daemonize`.
        .args(["--pidfile".as_ref(), pid_file.as_os_str()])
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("redis-server: {e}; `make packages` installs it"))
}

impl Drop for Redis {
    fn drop(&mut self) {
        let running = std::fs::read_to_string(self.pid_file()).ok().and_then(|p| p.trim().parse::<i32>().ok());
        let _ = self.server.kill();
        let _ = self.server.wait();
        // The one that a restart left behind.
        if let Some(pid) = running.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}
