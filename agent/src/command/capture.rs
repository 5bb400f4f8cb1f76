//! `sluice capture`

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use pcap_file::PcapError;

use crate::api::{Client, ClientError, Reply, Request};
use crate::capture::CaptureFile;
use crate::cli::CaptureArgs;

pub(super) async fn run(run_dir: &Path, args: CaptureArgs) -> anyhow::Result<ExitCode> {
    let request = Request::Capture {
        snaplen: args.snaplen,
        pod: args.pod,
    };
    let mut client = Client::send(run_dir, &request).await?;
    let output: Box<dyn Write> = if args.write.as_os_str() == "-" {
        Box::new(io::stdout())
    } else {
        let file =
            File::create(&args.write).with_context(|| format!("cannot create {}", args.write.display()))?;
        Box::new(file)
    };
    let mut file = CaptureFile::new(BufWriter::new(output), args.snaplen)?;
    // Whoever reads a pipe sees at once that the capture runs.
    file.get_mut().flush()?;
    let mut written: u64 = 0;
    while args.count.is_none_or(|count| written < count) {
        let reply = tokio::select! {
            reply = client.next() => reply?,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.context("cannot wait for an interrupt")?;
                None
            }
        };
        match reply {
            Some(Reply::Packet(packet)) => {
                let outcome = file
                    .write(&packet)
                    .and_then(|()| file.get_mut().flush().map_err(PcapError::IoError));
                match outcome {
                    Ok(()) => written += 1,
                    // The reader of the pipe has seen enough.
                    Err(PcapError::IoError(e)) if e.kind() == io::ErrorKind::BrokenPipe => break,
                    Err(e) => return Err(e).context("cannot write the capture"),
                }
            }
            Some(Reply::Lost { events }) => {
                eprintln!("sluice: {events} packets lost: they come faster than they are written");
            }
            Some(_) => return Err(ClientError::Mismatch.into()),
            None => break,
        }
    }
    eprintln!("sluice: {written} packets captured");
    Ok(ExitCode::SUCCESS)
}
