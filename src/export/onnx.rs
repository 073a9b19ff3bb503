//! The part of `onnx.proto` that a network takes, by its field numbers (github.com/onnx/onnx, onnx/onnx.proto, proto2).
//!
//! Written out by hand: a generated file would bring `protoc` into the build, and the crates that have one carry all of it.

use prost::Message;

/// What the files are written in: the operator set (17 is known to every runtime since 2022) and the format that goes with it.
pub const OPSET: i64 = 17;
/// See [`OPSET`].
pub const IR_VERSION: i64 = 8;

/// A whole file.
#[derive(Clone, PartialEq, Message)]
pub struct Model {
    #[prost(int64, optional, tag = "1")]
    pub ir_version: Option<i64>,
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSet>,
    #[prost(string, optional, tag = "2")]
    pub producer_name: Option<String>,
    #[prost(string, optional, tag = "3")]
    pub producer_version: Option<String>,
    #[prost(string, optional, tag = "6")]
    pub doc_string: Option<String>,
    #[prost(message, optional, tag = "7")]
    pub graph: Option<Graph>,
    #[prost(message, repeated, tag = "14")]
    pub metadata_props: Vec<Property>,
}

/// Which operators a file uses: of the default domain, at a version.
#[derive(Clone, PartialEq, Message)]
pub struct OperatorSet {
    #[prost(string, optional, tag = "1")]
    pub domain: Option<String>,
    #[prost(int64, optional, tag = "2")]
    pub version: Option<i64>,
}

/// A key and its value.
#[derive(Clone, PartialEq, Message)]
pub struct Property {
    #[prost(string, optional, tag = "1")]
    pub key: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub value: Option<String>,
}

/// Nodes in the order in which they run, and their constants.
#[derive(Clone, PartialEq, Message)]
pub struct Graph {
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<Node>,
    #[prost(string, optional, tag = "2")]
    pub name: Option<String>,
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<Tensor>,
    #[prost(string, optional, tag = "10")]
    pub doc_string: Option<String>,
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfo>,
}

/// An operator, with the names of what it reads and writes.
#[derive(Clone, PartialEq, Message)]
pub struct Node {
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    #[prost(string, optional, tag = "3")]
    pub name: Option<String>,
    #[prost(string, optional, tag = "4")]
    pub op_type: Option<String>,
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<Attribute>,
}

/// A setting of an operator.
#[derive(Clone, PartialEq, Message)]
pub struct Attribute {
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    #[prost(float, optional, tag = "2")]
    pub f: Option<f32>,
    #[prost(int64, optional, tag = "3")]
    pub i: Option<i64>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub ints: Vec<i64>,
    #[prost(int32, optional, tag = "20")]
    pub kind: Option<i32>,
}

impl Attribute {
    /// A whole number.
    pub fn int(name: &str, value: i64) -> Attribute {
        Attribute { name: Some(name.into()), i: Some(value), kind: Some(2), ..Attribute::default() }
    }

    /// Whole numbers.
    pub fn ints(name: &str, values: &[i64]) -> Attribute {
        Attribute { name: Some(name.into()), ints: values.to_vec(), kind: Some(7), ..Attribute::default() }
    }

    /// A number.
    pub fn float(name: &str, value: f32) -> Attribute {
        Attribute { name: Some(name.into()), f: Some(value), kind: Some(1), ..Attribute::default() }
    }
}

/// The types of elements that files have, by the numbers of `TensorProto.DataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Element {
    F32 = 1,
    U8 = 2,
    I64 = 7,
}

/// A constant.
#[derive(Clone, PartialEq, Message)]
pub struct Tensor {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub dims: Vec<i64>,
    #[prost(int32, optional, tag = "2")]
    pub data_type: Option<i32>,
    #[prost(string, optional, tag = "8")]
    pub name: Option<String>,
    /// Little-endian, row by row.
    #[prost(bytes = "vec", optional, tag = "9")]
    pub raw_data: Option<Vec<u8>>,
}

/// An input or output of a graph.
#[derive(Clone, PartialEq, Message)]
pub struct ValueInfo {
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<Type>,
    #[prost(string, optional, tag = "3")]
    pub doc_string: Option<String>,
}

/// A type; of the kinds that there are, tensors are the one used here.
#[derive(Clone, PartialEq, Message)]
pub struct Type {
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorType>,
}

/// The type of a tensor.
#[derive(Clone, PartialEq, Message)]
pub struct TensorType {
    #[prost(int32, optional, tag = "1")]
    pub elem_type: Option<i32>,
    #[prost(message, optional, tag = "2")]
    pub shape: Option<Shape>,
}

/// Extents, outermost first.
#[derive(Clone, PartialEq, Message)]
pub struct Shape {
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<Extent>,
}

/// An extent: a number, or the name of one that the caller chooses.
#[derive(Clone, PartialEq, Message)]
pub struct Extent {
    #[prost(int64, optional, tag = "1")]
    pub dim_value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    pub dim_param: Option<String>,
}

impl ValueInfo {
    /// A tensor of any number of images, the first extent, and these extents of each.
    pub fn batch(name: &str, element: Element, extents: &[usize], doc: &str) -> ValueInfo {
        let images = Extent { dim_param: Some("batch".into()), ..Extent::default() };
        let fixed = extents.iter().map(|&n| Extent { dim_value: Some(n as i64), ..Extent::default() });
        let shape = Some(Shape { dim: std::iter::once(images).chain(fixed).collect() });
        let tensor_type = Some(TensorType { elem_type: Some(element as i32), shape });
        ValueInfo { name: Some(name.into()), r#type: Some(Type { tensor_type }), doc_string: Some(doc.into()) }
    }
}
