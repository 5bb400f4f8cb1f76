//! The article "Mastering Cilium Network Policies", step by step, with nginx for the application and nc for the database; the
//! demo plays it with Flask and PostgreSQL. Each step is tried in both families.

use std::fs;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use sluice_e2e::lab::{NODE, source_root};
use sluice_e2e::suite::{self, Bed};
use sluice_e2e::{Lab, Pod, cases, wait};

const VIP4: &str = "10.96.0.80";
const VIP6: &str = "fd00:10:96::80";
const NODE_PORT: u16 = 30008;

struct Article {
    lab: Lab,
    database: Pod,
    app: Pod,
    l3: String,
    l7: String,
}

impl Bed for Article {
    fn prepare() -> Result<Self> {
        let lab = Lab::up("article")?;
        let policy = |name: &str| {
            let path = source_root().join("kind-config/article/policies").join(name);
            fs::read_to_string(&path).with_context(|| path.display().to_string())
        };
        let (l3, l7) = (policy("flask-app-to-db.yaml")?, policy("l7-rule.yaml")?);
        lab.run(&["agent", "start"])?;
        let database = lab.add_pod_with("db/postgres", "app=postgres", &["--port", "postgres=5432"])?;
        let app = lab.add_pod_with("db/flask-app", "app=flask-app", &["--port", "http=5000"])?;
        lab.add_pod("db/debug", "app=debug")?;
        lab.add_pod("dummy/debug", "app=debug")?;
        lab.run(&[
            "service",
            "add",
            "db/mydb-service",
            "--headless",
            "--port",
            "5432:5432",
            "--selector",
            "app=postgres",
        ])?;
        let port = NODE_PORT.to_string();
        lab.run(&[
            "service",
            "add",
            "db/flask-app-service",
            "--vip",
            VIP4,
            "--vip6",
            VIP6,
            "--port",
            "80:5000",
            "--node-port",
            &port,
            "--selector",
            "app=flask-app",
        ])?;
        for family in ["-4", "-6"] {
            lab.spawn("db/postgres", &["nc", "-d", family, "-l", "-k", "5432"])?;
        }
        let configuration = lab.files().join("nginx.conf");
        fs::write(&configuration, nginx_configuration(&lab))?;
        lab.spawn(
            "db/flask-app",
            &["nginx", "-c", &configuration.display().to_string()],
        )?;
        let bed = Self {
            lab,
            database,
            app,
            l3,
            l7,
        };
        for (pod, port) in [("db/postgres", "5432"), ("db/flask-app", "5000")] {
            for address in ["127.0.0.1", "::1"] {
                wait::until(&format!("{pod} listens at {address}"), wait::LONG, || {
                    Ok(bed
                        .lab
                        .exec(pod, &["nc", "-z", address, port])?
                        .status
                        .success()
                        .then_some(()))
                })?;
            }
        }
        Ok(bed)
    }

    fn log(&self) -> String {
        self.lab.agent_log()
    }
}

fn nginx_configuration(lab: &Lab) -> String {
    let files = lab.files();
    let files = files.display();
    let location = |path: &str, text: &str| format!("location = {path} {{ return 200 \"{text}\\n\"; }}");
    format!(
        "daemon off; worker_processes 1; pid {files}/nginx.pid; error_log stderr warn;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; default_type text/plain;\n\
         client_body_temp_path {files}/body; proxy_temp_path {files}/proxy; fastcgi_temp_path {files}/fastcgi;\n\
         uwsgi_temp_path {files}/uwsgi; scgi_temp_path {files}/scgi;\n\
         server {{ listen 5000; listen [::]:5000; {} {} {} }} }}\n",
        location("/", "temperatures"),
        location("/plot/temp", "plot"),
        location("/metrics", "metrics"),
    )
}

fn main() -> ExitCode {
    suite::run::<Article>(cases![
        without_policy_everything_connects,
        l3_policy_lets_only_the_application_reach_the_database,
        l7_policy_lets_only_the_pages_through,
        both_policies_together_hold_for_their_pods,
        removed_policies_allow_everything_again,
    ])
}

/// `nc -v -z -w 2`, as the article does it.
fn connects(bed: &Article, from: &str, to: &str, port: u16) -> Result<String> {
    let output = bed
        .lab
        .exec(from, &["nc", "-v", "-z", "-w", "2", to, &port.to_string()])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok(match () {
        () if said.contains("succeeded") => "open".into(),
        () if said.contains("timed out") => "timeout".into(),
        () => said,
    })
}

/// Status and body of a GET, or how curl fails.
fn fetch(bed: &Article, from: &str, base: &str, path: &str) -> Result<String> {
    let url = format!("http://{base}{path}");
    let command = [
        "curl",
        "-s",
        "-w",
        "%{http_code}",
        "--connect-timeout",
        "3",
        "--max-time",
        "20",
        &url,
    ];
    let output = bed.lab.exec(from, &command)?;
    Ok(match output.status.code() {
        Some(0) => String::from_utf8_lossy(&output.stdout).into_owned(),
        code => format!("curl exit {code:?}"),
    })
}

fn expect(step: &str, expected: &str, seen: &str) -> Result<()> {
    ensure!(expected == seen, "{step}: expected {expected:?}, seen {seen:?}");
    Ok(())
}

/// The database from the debug pods of both namespaces, and from the application.
fn database(bed: &Article, debug: &str) -> Result<()> {
    let [v4, v6] = bed.database.addresses().map(|address| address.to_string());
    for from in ["db/debug", "dummy/debug"] {
        for to in [v4.as_str(), &v6, "mydb-service.db"] {
            expect(&format!("{from} to {to}"), debug, &connects(bed, from, to, 5432)?)?;
        }
    }
    for to in [v4.as_str(), &v6, "mydb-service"] {
        expect(
            &format!("db/flask-app to {to}"),
            "open",
            &connects(bed, "db/flask-app", to, 5432)?,
        )?;
    }
    Ok(())
}

/// The application's pages by pod address, ClusterIP and name from pods, and by NodePort from outside.
fn pages(bed: &Article, metrics: &str) -> Result<()> {
    let pod: Vec<String> = bed.app.at(5000).map(|address| address.to_string()).into();
    let vip = [
        format!("{VIP4}:80"),
        format!("[{VIP6}]:80"),
        "flask-app-service.db:80".into(),
    ];
    let node = NODE.map(|address| SocketAddr::new(address, NODE_PORT).to_string());
    let inside = [&pod[..], &vip].concat();
    for (from, bases) in [
        ("db/debug", &inside[..]),
        ("dummy/debug", &inside),
        ("outside", &node),
        ("dummy/debug", &node),
    ] {
        for base in bases {
            let step = |path| format!("{from} GET {base}{path}");
            expect(&step("/"), "temperatures\n200", &fetch(bed, from, base, "/")?)?;
            expect(
                &step("/plot/temp"),
                "plot\n200",
                &fetch(bed, from, base, "/plot/temp")?,
            )?;
            expect(&step("/metrics"), metrics, &fetch(bed, from, base, "/metrics")?)?;
        }
    }
    Ok(())
}

const METRICS: &str = "metrics\n200";
const DENIED: &str = "Access denied\r\n403";

fn without_policy_everything_connects(bed: &mut Article) -> Result<()> {
    bed.lab.enforce(&[])?;
    database(bed, "open")?;
    pages(bed, METRICS)
}

fn l3_policy_lets_only_the_application_reach_the_database(bed: &mut Article) -> Result<()> {
    let l3 = bed.l3.clone();
    bed.lab.enforce(&[("l3", &l3)])?;
    database(bed, "timeout")?;
    pages(bed, METRICS)
}

fn l7_policy_lets_only_the_pages_through(bed: &mut Article) -> Result<()> {
    let l7 = bed.l7.clone();
    bed.lab.enforce(&[("l7", &l7)])?;
    database(bed, "open")?;
    pages(bed, DENIED)
}

fn both_policies_together_hold_for_their_pods(bed: &mut Article) -> Result<()> {
    let (l3, l7) = (bed.l3.clone(), bed.l7.clone());
    bed.lab.enforce(&[("l3", &l3), ("l7", &l7)])?;
    database(bed, "timeout")?;
    pages(bed, DENIED)?;
    let flows = bed.lab.agent().flows(500)?;
    for code in [133, 240] {
        let is_logged = flows.iter().any(|flow| {
            flow.drop_reason
                .as_ref()
                .is_some_and(|reason| reason.code == code)
        });
        ensure!(is_logged, "the flow log has no drop for reason {code}");
    }
    Ok(())
}

fn removed_policies_allow_everything_again(bed: &mut Article) -> Result<()> {
    bed.lab.enforce(&[])?;
    database(bed, "open")?;
    pages(bed, METRICS)
}
