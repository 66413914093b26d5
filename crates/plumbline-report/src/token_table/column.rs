//! The values of one column that are not written yet.

use parquet::basic::{Repetition, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int32Type, Int64Type};
use parquet::errors::{ParquetError, Result};
use parquet::file::writer::SerializedColumnWriter;
use parquet::schema::types::Type;

/// A column by its physical type.
pub(super) enum Column {
    Bytes(Values<ByteArray>),
    Double(Values<f64>),
    Int32(Values<i32>),
    Int64(Values<i64>),
    Bool(Values<bool>),
}

/// Values that are there, and for an optional column whether each row has one.
pub(super) struct Values<T> {
    there: Vec<T>,
    levels: Option<Vec<i16>>,
}

pub(super) fn text_value(text: &str) -> ByteArray {
    ByteArray::from(text.as_bytes().to_vec())
}

impl<T> Values<T> {
    fn new(optional: bool) -> Self {
        Self { there: Vec::new(), levels: optional.then(Vec::new) }
    }

    fn push(&mut self, value: Option<T>) -> Result<()> {
        match (&mut self.levels, &value) {
            (Some(levels), value) => levels.push(i16::from(value.is_some())),
            (None, Some(_)) => {}
            (None, None) => return Err(ParquetError::General("a required column has no value".into())),
        }
        self.there.extend(value);
        Ok(())
    }

    fn write<D: DataType<T = T>>(&mut self, writer: &mut SerializedColumnWriter<'_>) -> Result<()> {
        writer.typed::<D>().write_batch(&self.there, self.levels.as_deref(), None)?;
        self.there.clear();
        self.levels.iter_mut().for_each(Vec::clear);
        Ok(())
    }
}

impl Column {
    pub(super) fn of(field: &Type) -> Result<Self> {
        let optional = field.get_basic_info().repetition() == Repetition::OPTIONAL;
        Ok(match field.get_physical_type() {
            Physical::BYTE_ARRAY => Self::Bytes(Values::new(optional)),
            Physical::DOUBLE => Self::Double(Values::new(optional)),
            Physical::INT32 => Self::Int32(Values::new(optional)),
            Physical::INT64 => Self::Int64(Values::new(optional)),
            Physical::BOOLEAN => Self::Bool(Values::new(optional)),
            other => return Err(ParquetError::General(format!("a column of type {other} is not written"))),
        })
    }

    pub(super) fn push_bytes(&mut self, value: Option<ByteArray>) -> Result<()> {
        match self {
            Self::Bytes(values) => values.push(value),
            _ => Err(mismatch()),
        }
    }

    pub(super) fn push_f64(&mut self, value: Option<f64>) -> Result<()> {
        match self {
            Self::Double(values) => values.push(value),
            _ => Err(mismatch()),
        }
    }

    /// Unsigned integers have the bits of signed ones.
    pub(super) fn push_u32(&mut self, value: Option<u32>) -> Result<()> {
        match self {
            Self::Int32(values) => values.push(value.map(u32::cast_signed)),
            _ => Err(mismatch()),
        }
    }

    pub(super) fn push_i64(&mut self, value: i64) -> Result<()> {
        match self {
            Self::Int64(values) => values.push(Some(value)),
            _ => Err(mismatch()),
        }
    }

    pub(super) fn push_bool(&mut self, value: bool) -> Result<()> {
        match self {
            Self::Bool(values) => values.push(Some(value)),
            _ => Err(mismatch()),
        }
    }

    pub(super) fn write(&mut self, writer: &mut SerializedColumnWriter<'_>) -> Result<()> {
        match self {
            Self::Bytes(values) => values.write::<ByteArrayType>(writer),
            Self::Double(values) => values.write::<DoubleType>(writer),
            Self::Int32(values) => values.write::<Int32Type>(writer),
            Self::Int64(values) => values.write::<Int64Type>(writer),
            Self::Bool(values) => values.write::<BoolType>(writer),
        }
    }
}

fn mismatch() -> ParquetError {
    ParquetError::General("a value does not have its column's type".into())
}
