//! Mixed traffic through sluice for a given time; see `sluice_e2e::traffic`. Called by `scripts/soak.sh`.

use std::env;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sluice_e2e::{Lab, suite, traffic};

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let seconds: u64 = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--seconds", seconds] => seconds.parse().context("--seconds N")?,
        _ => bail!("usage: mixed-traffic --seconds N"),
    };
    let missing = suite::missing_privilege();
    ensure!(missing.is_none(), "{}", missing.unwrap_or_default());
    let mut lab = Lab::up("soak")?;
    lab.run(&["agent", "start"])?;
    let outcome = traffic::run(&mut lab, Duration::from_secs(seconds));
    if outcome.is_err() {
        eprintln!("agent's log:\n{}", lab.agent_log());
    }
    println!("{:#?}", outcome?);
    Ok(())
}
