//! The web client, out of the binary.

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chat_protocol::Code;
use include_dir::{Dir, include_dir};
use sha2::{Digest as _, Sha256};

use super::problem::refuse;

static DIRECTORY: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/../web");

struct Asset {
    media_type: HeaderValue,
    tag: HeaderValue,
    content: Bytes,
}

/// By path. Only what a browser loads: files of known types, in folders that are not of tools.
static ASSETS: LazyLock<HashMap<&'static str, Asset>> = LazyLock::new(|| {
    let mut assets = HashMap::new();
    collect(&DIRECTORY, &mut assets);
    assets
});

fn collect(directory: &Dir<'static>, assets: &mut HashMap<&'static str, Asset>) {
    for file in directory.files() {
        let Some(path) = file.path().to_str() else {
            continue;
        };
        let Some(media_type) = media_type(path) else {
            continue;
        };
        let content = Bytes::copy_from_slice(file.contents());
        assets.insert(path, Asset { media_type, tag: tag(&content), content });
    }
    for child in directory.dirs() {
        let name = child.path().file_name().and_then(|name| name.to_str()).unwrap_or(".");
        if !name.starts_with('.') && !["node_modules", "test", "tests"].contains(&name) {
            collect(child, assets);
        }
    }
}

/// `None`: not served.
fn media_type(path: &str) -> Option<HeaderValue> {
    let (stem, extension) = path.rsplit_once('.')?;
    let name = stem.rsplit('/').next().unwrap_or(stem);
    if name.is_empty() || name.ends_with(".test") || path.starts_with("package") {
        return None;
    }
    let text = match extension {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" => "application/json",
        "webmanifest" => "application/manifest+json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        _ => return None,
    };
    Some(HeaderValue::from_static(text))
}

fn tag(content: &[u8]) -> HeaderValue {
    let digest = Sha256::digest(content);
    let hex: String = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::from_str(&format!("\"{hex}\""))
        .expect("hexadecimal digits in quotes are visible ASCII")
}

/// Answers whatever no route does: a file of the web client, or that there is nothing.
pub(super) async fn serve(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let path = uri.path().trim_start_matches('/');
    let path = if path.is_empty() { "index.html" } else { path };
    match ASSETS.get(path) {
        Some(asset) => answer(asset, &method, &headers),
        None => {
            let detail = format!("There is nothing at {}.", uri.path());
            refuse(Code::NotFound, detail).into_response()
        }
    }
}

fn answer(asset: &Asset, method: &Method, headers: &HeaderMap) -> Response {
    if *method != Method::GET && *method != Method::HEAD {
        let detail = format!("This address is not served with {method}.");
        let mut response = refuse(Code::MethodNotAllowed, detail).into_response();
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET,HEAD"));
        return response;
    }
    let common = [
        (ETAG, asset.tag.clone()),
        // Kept, and asked about each time: a new server brings a new client at once.
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    if has_tag(headers, &asset.tag) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    (common, [(CONTENT_TYPE, asset.media_type.clone())], asset.content.clone()).into_response()
}

/// RFC 9110, 13.1.2: weak comparison with each tag of the list.
fn has_tag(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = known.flat_map(|list| list.split(',')).map(str::trim);
    tags.any(|one| one == "*" || one.trim_start_matches("W/").as_bytes() == tag.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asset() -> Asset {
        let content = Bytes::from_static(b"<!doctype html>");
        Asset { media_type: media_type("index.html").unwrap(), tag: tag(&content), content }
    }

    #[test]
    fn a_known_tag_is_answered_without_content() {
        let asset = asset();
        let first = answer(&asset, &Method::GET, &HeaderMap::new());
        assert_eq!(first.status(), StatusCode::OK);
        assert_eq!(first.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
        let tag = first.headers()[ETAG].to_str().unwrap().to_owned();
        for (known, status) in [
            (tag.clone(), StatusCode::NOT_MODIFIED),
            (format!("\"x\", W/{tag}"), StatusCode::NOT_MODIFIED),
            ("\"x\"".into(), StatusCode::OK),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(IF_NONE_MATCH, known.parse().unwrap());
            assert_eq!(answer(&asset, &Method::GET, &headers).status(), status, "{known}");
        }
    }

    #[test]
    fn files_are_only_read() {
        let response = answer(&asset(), &Method::POST, &HeaderMap::new());
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(response.headers()[ALLOW], "GET,HEAD");
    }

    #[test]
    fn only_files_for_browsers_are_served() {
        for served in ["index.html", "app/main.js", "sdk/index.js", "style.css", "icon.svg"] {
            assert!(media_type(served).is_some(), "{served}");
        }
        for hidden in [
            ".gitkeep",
            "package.json",
            "package-lock.json",
            "sdk/outbox.test.js",
            "README.md",
            "run.sh",
            "plain",
        ] {
            assert!(media_type(hidden).is_none(), "{hidden}");
        }
    }
}
