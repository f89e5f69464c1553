//! A client of the admin API, for commands that look at a running Holdfast or change it. Must not know what the calls mean.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::time::timeout;

use super::CliError;
use crate::upstream::http::{client_tls, with_causes};

/// A connection is a few hundred bytes, and a list has at most 1,000.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// A body of which more may come.
pub type Unread = Incoming;

/// Where the admin listener is, and who asks.
#[derive(Args)]
pub struct Target {
    /// The admin listener
    #[arg(long, env = "HOLDFAST_ADMIN", value_name = "URL", default_value = "http://127.0.0.1:8001")]
    admin: Uri,
    /// File with the token, where the listener asks for one; else the variable HOLDFAST_ADMIN_TOKEN
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// PEM file of an authority to trust beside the system's, for `https:`
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// How long to wait for an answer, for instance 500ms
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

impl Target {
    /// Makes one call; `path` is with its query. What was answered, if it was no refusal: null where there was no body.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Bytes)>,
    ) -> Result<Value, CliError> {
        let (url, request) = self.request(&method, path, body)?;
        let failed = |error: String| CliError::Admin(format!("{method} {url}: {error}"));
        let exchange = async {
            let answer = self.client().map_err(&failed)?.request(request).await;
            let answer = answer.map_err(|error| failed(with_causes(&error)))?;
            let status = answer.status();
            Ok((status, content(answer.into_body()).await.map_err(&failed)?))
        };
        let (status, body) = timeout(self.timeout, exchange).await.unwrap_or_else(|_| Err(failed(self.no_answer())))?;
        match status.is_success() {
            true => Ok(body),
            false => Err(CliError::Admin(refusal(status, &body))),
        }
    }

    /// Begins to read what has no end; only its beginning is waited for.
    pub async fn open(&self, path: &str) -> Result<Unread, CliError> {
        let (url, request) = self.request(&Method::GET, path, None)?;
        let failed = |error: String| CliError::Admin(format!("GET {url}: {error}"));
        let client = self.client().map_err(&failed)?;
        let answer = timeout(self.timeout, client.request(request)).await;
        let answer = answer.map_err(|_| failed(self.no_answer()))?.map_err(|error| failed(with_causes(&error)))?;
        let status = answer.status();
        match status.is_success() {
            true => Ok(answer.into_body()),
            false => {
                let body = timeout(self.timeout, content(answer.into_body())).await;
                Err(CliError::Admin(refusal(status, &body.unwrap_or_else(|_| Err(self.no_answer())).map_err(failed)?)))
            }
        }
    }

    fn request(
        &self,
        method: &Method,
        path: &str,
        body: Option<(&'static str, Bytes)>,
    ) -> Result<(String, Request<Full<Bytes>>), CliError> {
        let base = self.admin.to_string();
        let url = format!("{}{path}", base.trim_end_matches('/'));
        let failed = |error: String| CliError::Admin(format!("{method} {url}: {error}"));
        let uri = url.parse::<Uri>().map_err(|error| failed(error.to_string()))?;
        let (media_type, body) = body.map_or((None, Bytes::new()), |(media_type, body)| (Some(media_type), body));
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri;
        if let Some(media_type) = media_type {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        }
        if let Some(token) = self.token()? {
            let value = HeaderValue::from_str(&format!("Bearer {token}"));
            let value = value.map_err(|_| failed("the token has characters that no header may have".into()))?;
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok((url, request))
    }

    fn client(&self) -> Result<Client<HttpsConnector<HttpConnector>, Full<Bytes>>, String> {
        let ca_pem =
            self.ca_file.as_ref().map(std::fs::read_to_string).transpose().map_err(|error| error.to_string())?;
        let tls = client_tls(ca_pem.as_deref())?;
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        Ok(Client::builder(TokioExecutor::new()).build(connector))
    }

    fn no_answer(&self) -> String {
        format!("no answer within {:?}", self.timeout)
    }

    fn token(&self) -> Result<Option<String>, CliError> {
        let text = match &self.token_file {
            Some(path) => Some(std::fs::read_to_string(path).map_err(|error| {
                CliError::Admin(format!("the token cannot be read from {}: {error}", path.display()))
            })?),
            None => std::env::var("HOLDFAST_ADMIN_TOKEN").ok(),
        };
        Ok(text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()))
    }
}

/// A whole body: JSON, or else its text.
async fn content(body: Unread) -> Result<Value, String> {
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| error.to_string())?.to_bytes();
    let text = || String::from_utf8_lossy(&body).trim().to_owned();
    Ok(serde_json::from_slice(&body).unwrap_or_else(|_| match body.is_empty() {
        true => Value::Null,
        false => Value::String(text()),
    }))
}

/// The words of an answer that refuses, with each problem that it names.
fn refusal(status: StatusCode, body: &Value) -> String {
    let hint = match status {
        StatusCode::UNAUTHORIZED => " (give a token by --token-file or HOLDFAST_ADMIN_TOKEN)",
        _ => "",
    };
    let mut words = match body["error"]["message"].as_str().or_else(|| body.as_str()) {
        Some(message) => format!("{message} ({}){hint}", status.as_u16()),
        None => format!("answered {status}: {body}{hint}"),
    };
    for problem in body["problems"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        words += &format!("\n  {problem}");
    }
    for error in body["errors"].as_array().into_iter().flatten() {
        let part = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        words += &format!("\n  {:?}: {}", part("pointer"), part("message"));
    }
    words
}
