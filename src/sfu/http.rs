//! CORS and errors, the same at director and servers.

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Which server carries the participant.
pub const SERVER: HeaderName = HeaderName::from_static("roomful-server");

/// The participant comes from another server of the fleet.
pub const MOVED: HeaderName = HeaderName::from_static("roomful-moved");

/// A browser page from anywhere may join: the fleet is for tests.
pub async fn cors(request: Request, next: Next) -> Response {
    let mut response = match *request.method() {
        Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        _ => next.run(request).await,
    };
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, DELETE, OPTIONS"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "Content-Type"),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, "Location, Roomful-Server"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// `{"error": …}` with a status.
pub fn error(status: StatusCode, why: impl std::fmt::Display) -> Response {
    (status, Json(json!({ "error": why.to_string() }))).into_response()
}

pub async fn not_found() -> Response {
    error(StatusCode::NOT_FOUND, "no such thing here")
}
