//! `holdfast demo`: the real program on an embedded configuration, with a small chat application beside it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use tokio::net::TcpListener;

use super::{CliError, default_log, run};
use crate::app;
use crate::config;
use crate::demo::{self, AdminTarget};
use crate::tasks::Tasks;
use crate::telemetry::logging;

#[derive(Args)]
pub struct DemoArguments {
    /// Run a scripted conversation through real sockets on free ports; exit 0, or say what failed
    #[arg(long)]
    check: bool,
    /// Where clients connect
    #[arg(long, default_value = "127.0.0.1:8000", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// The admin listener
    #[arg(long, default_value = "127.0.0.1:8001", value_name = "ADDRESS")]
    admin: SocketAddr,
    /// The chat application and its page
    #[arg(long, default_value = "127.0.0.1:3000", value_name = "ADDRESS")]
    page: SocketAddr,
    /// Run the chat over queues of this broker, for instance amqp://guest:guest@127.0.0.1:5672/%2f
    #[arg(long, value_name = "URL")]
    rabbitmq: Option<String>,
}

/// Runs the demo until a signal ends it, or the scripted conversation.
pub fn demo(arguments: &DemoArguments) -> Result<ExitCode, CliError> {
    let level = if arguments.check { "warn" } else { "info" };
    let log = logging::init(&default_log(level)).map_err(CliError::Log)?;
    let folder = Folder::new()?;
    run::runtime()?.block_on(async {
        let free = |address: SocketAddr| match arguments.check {
            true => SocketAddr::new(address.ip(), 0),
            false => address,
        };
        let socket = TcpListener::bind(free(arguments.page)).await.map_err(|error| {
            CliError::Demo(format!("cannot listen on {}: {error}; choose another --page", arguments.page))
        })?;
        let page = socket.local_addr()?;
        let rabbitmq = arguments.rabbitmq.as_deref();
        let text = demo::config_yaml(free(arguments.listen), free(arguments.admin), page, rabbitmq);
        let path = if rabbitmq.is_some() { demo::RABBITMQ_CONFIG_PATH } else { demo::CONFIG_PATH };
        let loaded = config::load_text(path, &text, &folder.config_folder(), &|_| None)
            .map_err(|problems| CliError::Demo(problems.to_string()))?;
        let running = app::start(loaded, None, log).await?;
        let admin = AdminTarget { address: running.admin, token: None };
        let websocket_url = demo::websocket_url(running.listen);
        let tasks = Tasks::new();
        let handler = demo::serve_handler(socket, admin.clone(), websocket_url.clone(), rabbitmq, &tasks).await;
        let handler = handler.map_err(|error| CliError::Demo(format!("cannot start the chat: {error}")))?;
        let code = if arguments.check {
            let result = demo::check(&websocket_url, &admin, page).await;
            running.drain();
            running.wait().await;
            result.map_err(|failed| CliError::Demo(failed.to_string()))?;
            println!("demo --check: every step passed");
            ExitCode::SUCCESS
        } else {
            println!("{}", demo::banner(running.listen, running.admin, page));
            run::serve(running).await?
        };
        // After the drain: disconnect events still go to the handler.
        handler.stop();
        tasks.wait().await;
        Ok(code)
    })
}

/// A folder of its own with the demo's schemas, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> std::io::Result<Self> {
        let folder = Self(std::env::temp_dir().join(format!("holdfast-demo-{}", crate::ids::NodeId::random())));
        for (name, text) in demo::SCHEMAS {
            let path = folder.0.join(name);
            std::fs::create_dir_all(path.parent().unwrap_or(&folder.0))?;
            std::fs::write(path, text)?;
        }
        std::fs::create_dir_all(folder.config_folder())?;
        Ok(folder)
    }

    /// Where the configuration would stand: its paths are relative to it.
    fn config_folder(&self) -> PathBuf {
        self.0.join(demo::CONFIG_PATH).parent().unwrap_or(Path::new("")).to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is left to the system's own cleaning of temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
