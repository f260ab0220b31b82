//! A message body: JSON that the server carries without looking inside.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;

/// A JSON value, kept as the text it arrived as. In MessagePack it is written as the same value.
#[derive(Clone)]
pub struct Body(Box<RawValue>);

impl Body {
    /// The body with this JSON text. Fails if the text is not one JSON value.
    pub fn from_json(text: String) -> Result<Body, serde_json::Error> {
        RawValue::from_string(text).map(Body)
    }

    /// The body that a value serialises to.
    pub fn from_value<T: Serialize>(value: &T) -> Result<Body, serde_json::Error> {
        serde_json::value::to_raw_value(value).map(Body)
    }

    /// A `text` body: `{"text": …}`.
    pub fn text(text: &str) -> Body {
        // A map of two strings always serialises.
        Body::from_value(&serde_json::json!({ "text": text }))
            .unwrap_or_else(|_| Body(RawValue::NULL.to_owned()))
    }

    /// The JSON text.
    pub fn as_json(&self) -> &str {
        self.0.get()
    }

    /// The parsed value.
    pub fn to_value(&self) -> serde_json::Value {
        serde_json::from_str(self.0.get()).unwrap_or_default()
    }
}

impl PartialEq for Body {
    fn eq(&self, other: &Body) -> bool {
        self.as_json() == other.as_json() || self.to_value() == other.to_value()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_json())
    }
}

impl Serialize for Body {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            self.0.serialize(serializer)
        } else {
            self.to_value().serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Body, D::Error> {
        if deserializer.is_human_readable() {
            Box::<RawValue>::deserialize(deserializer).map(Body)
        } else {
            let value = serde_json::Value::deserialize(deserializer)?;
            Body::from_value(&value).map_err(de::Error::custom)
        }
    }
}

impl utoipa::PartialSchema for Body {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::schema::Object::builder()
            .schema_type(utoipa::openapi::schema::SchemaType::AnyValue)
            .description(Some("Any JSON value. A `text` message has `{\"text\": \"…\"}`."))
            .into()
    }
}

impl utoipa::ToSchema for Body {}
