//! Payloads of Sparkplug as a host reads and writes them: by structs of its own, not by the product's.

/// `Payload`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Payload {
    #[prost(uint64, optional, tag = "1")]
    pub timestamp: Option<u64>,
    #[prost(message, repeated, tag = "2")]
    pub metrics: Vec<Metric>,
    #[prost(uint64, optional, tag = "3")]
    pub seq: Option<u64>,
    #[prost(string, optional, tag = "4")]
    pub uuid: Option<String>,
    #[prost(bytes = "vec", optional, tag = "5")]
    pub body: Option<Vec<u8>>,
}

/// `Metric`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Metric {
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    #[prost(uint64, optional, tag = "2")]
    pub alias: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    pub timestamp: Option<u64>,
    #[prost(uint32, optional, tag = "4")]
    pub datatype: Option<u32>,
    #[prost(bool, optional, tag = "5")]
    pub is_historical: Option<bool>,
    #[prost(bool, optional, tag = "7")]
    pub is_null: Option<bool>,
    #[prost(message, optional, tag = "9")]
    pub properties: Option<Properties>,
    #[prost(oneof = "Value", tags = "10, 11, 12, 13, 14, 15")]
    pub value: Option<Value>,
}

/// A value, of a metric.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Value {
    #[prost(uint32, tag = "10")]
    Int(u32),
    #[prost(uint64, tag = "11")]
    Long(u64),
    #[prost(float, tag = "12")]
    Float(f32),
    #[prost(double, tag = "13")]
    Double(f64),
    #[prost(bool, tag = "14")]
    Bool(bool),
    #[prost(string, tag = "15")]
    Text(String),
}

/// `PropertySet`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Properties {
    #[prost(string, repeated, tag = "1")]
    pub keys: Vec<String>,
    #[prost(message, repeated, tag = "2")]
    pub values: Vec<Property>,
}

/// `PropertyValue`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Property {
    #[prost(uint32, optional, tag = "1")]
    pub kind: Option<u32>,
    #[prost(uint32, optional, tag = "3")]
    pub int: Option<u32>,
    #[prost(double, optional, tag = "6")]
    pub double: Option<f64>,
    #[prost(bool, optional, tag = "7")]
    pub boolean: Option<bool>,
    #[prost(string, optional, tag = "8")]
    pub text: Option<String>,
}

/// Numbers of data types.
pub const INT32: u32 = 3;
pub const INT64: u32 = 4;
pub const UINT64: u32 = 8;
pub const FLOAT: u32 = 9;
pub const DOUBLE: u32 = 10;
pub const BOOLEAN: u32 = 11;
pub const STRING: u32 = 12;

impl Payload {
    /// The metric of this name.
    pub fn named(&self, name: &str) -> Option<&Metric> {
        self.metrics.iter().find(|metric| metric.name.as_deref() == Some(name))
    }

    /// bdSeq of a birth or death.
    pub fn bd_seq(&self) -> Option<u64> {
        self.named("bdSeq").and_then(|metric| match metric.value {
            Some(Value::Long(number)) => Some(number),
            _ => None,
        })
    }
}

impl Metric {
    /// One that names what it writes.
    pub fn write(name: &str, datatype: u32, value: Value) -> Self {
        Self { name: Some(name.into()), datatype: Some(datatype), value: Some(value), ..Self::default() }
    }

    /// The property of this key.
    pub fn property(&self, key: &str) -> Option<&Property> {
        let properties = self.properties.as_ref()?;
        let at = properties.keys.iter().position(|known| known == key)?;
        properties.values.get(at)
    }
}
