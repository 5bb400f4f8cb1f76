//! Twenty seconds of what `scripts/soak.sh` does for minutes.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use sluice_e2e::suite::{self, Bed};
use sluice_e2e::{Lab, cases, traffic};

struct Mixed(Lab);

impl Bed for Mixed {
    fn prepare() -> Result<Self> {
        let lab = Lab::up("mixed")?;
        lab.run(&["agent", "start"])?;
        Ok(Self(lab))
    }

    fn log(&self) -> String {
        self.0.agent_log()
    }
}

fn main() -> ExitCode {
    suite::run::<Mixed>(cases![tcp_is_byte_exact_and_every_lost_datagram_is_counted])
}

fn tcp_is_byte_exact_and_every_lost_datagram_is_counted(bed: &mut Mixed) -> Result<()> {
    let report = traffic::run(&mut bed.0, Duration::from_secs(20))?;
    println!("    {report:?}");
    for (what, count) in [
        ("bytes by TCP", report.tcp_bytes),
        ("connections", report.tcp_connections),
        ("allowed requests", report.http_allowed),
        ("denied requests", report.http_denied),
        ("datagrams", report.udp_received),
        ("policy changes", report.policy_changes),
    ] {
        ensure!(count > 0, "no {what}");
    }
    Ok(())
}
