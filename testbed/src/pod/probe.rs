//! An httpGet probe, asked as the kubelet asks it: at the pod's address, and only the status counts.

use std::io::{self, Read as _, Write as _};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::POD_IP;
use super::bundle::{list, other, text};
use crate::world::World;

/// Longest head of an answer that is read.
const MAX_HEAD: usize = 4096;

#[derive(Debug)]
pub(super) struct Probe {
    container: String,
    path: String,
    port: u64,
    period: Duration,
    failures: u64,
}

impl Probe {
    pub(super) fn new(probe: &Value, container: &Value) -> io::Result<Self> {
        let get = &probe["httpGet"];
        let number = |field: &str, or| probe.get(field).and_then(Value::as_u64).unwrap_or(or);
        let port = get["port"].as_u64().or_else(|| {
            let name = get["port"].as_str()?;
            list(container, "ports").find(|port| text(port, "name") == name)?["containerPort"].as_u64()
        });
        Ok(Self {
            container: text(container, "name").to_owned(),
            path: get.get("path").and_then(Value::as_str).unwrap_or("/").to_owned(),
            port: port.ok_or_else(|| other("a probe names a port that its container does not have".to_owned()))?,
            period: Duration::from_secs(number("periodSeconds", 10)),
            failures: number("failureThreshold", 3),
        })
    }

    /// Until it succeeds. Asked more often than the manifest says, for as long as it says from the first answer on:
    /// how long a container takes to start is the machine's.
    pub(super) fn wait(&self, world: &World, limit: Duration) -> io::Result<()> {
        let (begun, mut answered) = (Instant::now(), None);
        let allowed = limit.min(self.period.saturating_mul(u32::try_from(self.failures).unwrap_or(u32::MAX)));
        loop {
            let last = match self.ask(world) {
                Ok(status) if (200..400).contains(&status) => return Ok(()),
                Ok(status) => {
                    answered.get_or_insert_with(Instant::now);
                    format!("HTTP probe failed with statuscode: {status}")
                }
                Err(error) => error.to_string(),
            };
            if begun.elapsed() > limit || answered.is_some_and(|first: Instant| first.elapsed() > allowed) {
                return Err(other(format!("{}: {} {last}", self.container, self.path)));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn ask(&self, world: &World) -> io::Result<u16> {
        let mut stream = world.connect(&format!("{POD_IP}:{}", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        // In one write: a server that answers early may close before a second one.
        let request = format!("GET {} HTTP/1.1\r\nHost: {POD_IP}\r\nConnection: close\r\n\r\n", self.path);
        stream.write_all(request.as_bytes())?;
        let mut head = Vec::new();
        let mut buffer = [0_u8; 512];
        while !head.contains(&b'\n') && head.len() < MAX_HEAD {
            match stream.read(&mut buffer)? {
                0 => break,
                read => head.extend(buffer.iter().take(read)),
            }
        }
        let line = String::from_utf8_lossy(&head);
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.ok_or_else(|| other("the answer has no status".to_owned()))
    }
}
