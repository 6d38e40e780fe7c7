//! Arithmetic and order on values.
//!
//! Two ints stay ints and overflow is an error; an int and a double meet as doubles.

use std::cmp::Ordering;
use std::rc::Rc;

use super::ast::BinaryOp;
use super::error::Fault;
use super::limits::Meter;
use super::temporal::{duration_in_range, in_range};
use super::value::{List, Text, Value};

type Outcome<'e> = Result<Value<'e>, Box<Fault>>;

/// `+ - * / %`.
pub(super) fn arithmetic<'e>(
    op: BinaryOp,
    left: &Value<'e>,
    right: &Value<'e>,
    meter: &Meter,
) -> Outcome<'e> {
    match (left, right) {
        (Value::Int(left), Value::Int(right)) => ints(op, *left, *right),
        (Value::Int(left), Value::Double(right)) => doubles(op, *left as f64, *right),
        (Value::Double(left), Value::Int(right)) => doubles(op, *left, *right as f64),
        (Value::Double(left), Value::Double(right)) => doubles(op, *left, *right),
        _ => match op {
            BinaryOp::Add => add(left, right, meter),
            BinaryOp::Subtract => subtract(left, right),
            _ => Err(refuse(op, left, right)),
        },
    }
}

fn refuse(op: BinaryOp, left: &Value<'_>, right: &Value<'_>) -> Box<Fault> {
    Fault::of_type(format!(
        "`{}` does not take {} and {}",
        op.symbol(),
        left.type_name(),
        right.type_name()
    ))
}

fn ints<'e>(op: BinaryOp, left: i64, right: i64) -> Outcome<'e> {
    if right == 0 && matches!(op, BinaryOp::Divide | BinaryOp::Modulo) {
        return Err(Fault::of_value("division by zero"));
    }
    let value = match op {
        BinaryOp::Add => left.checked_add(right),
        BinaryOp::Subtract => left.checked_sub(right),
        BinaryOp::Multiply => left.checked_mul(right),
        BinaryOp::Divide => left.checked_div(right),
        BinaryOp::Modulo => left.checked_rem(right),
        _ => None,
    };
    value
        .map(Value::Int)
        .ok_or_else(|| Fault::of_value("the number is out of range"))
}

fn doubles<'e>(op: BinaryOp, left: f64, right: f64) -> Outcome<'e> {
    Ok(Value::Double(match op {
        BinaryOp::Add => left + right,
        BinaryOp::Subtract => left - right,
        BinaryOp::Multiply => left * right,
        BinaryOp::Divide => left / right,
        _ => return Err(refuse(op, &Value::Double(left), &Value::Double(right))),
    }))
}

fn add<'e>(left: &Value<'e>, right: &Value<'e>, meter: &Meter) -> Outcome<'e> {
    match (left, right) {
        (Value::Text(left), Value::Text(right)) => {
            meter.text(left.len() + right.len())?;
            let mut text = String::with_capacity(left.len() + right.len());
            text.push_str(left);
            text.push_str(right);
            Ok(Value::Text(Text::Built(text.into())))
        }
        (Value::List(left), Value::List(right)) => {
            meter.steps(left.len() + right.len())?;
            let items = left.iter().chain(right.iter()).collect();
            Ok(Value::List(List::Built(Rc::new(items))))
        }
        (Value::Timestamp(time), Value::Duration(duration))
        | (Value::Duration(duration), Value::Timestamp(time)) => {
            timestamp(time.checked_add(*duration))
        }
        (Value::Duration(left), Value::Duration(right)) => duration(left.checked_add(*right)),
        _ => Err(refuse(BinaryOp::Add, left, right)),
    }
}

fn subtract<'e>(left: &Value<'e>, right: &Value<'e>) -> Outcome<'e> {
    match (left, right) {
        (Value::Timestamp(left), Value::Timestamp(right))
        | (Value::Duration(left), Value::Duration(right)) => duration(left.checked_sub(*right)),
        (Value::Timestamp(time), Value::Duration(duration)) => {
            timestamp(time.checked_sub(*duration))
        }
        _ => Err(refuse(BinaryOp::Subtract, left, right)),
    }
}

fn timestamp<'e>(micros: Option<i64>) -> Outcome<'e> {
    micros
        .and_then(in_range)
        .map(Value::Timestamp)
        .ok_or_else(|| Fault::of_value("the timestamp is out of range"))
}

fn duration<'e>(micros: Option<i64>) -> Outcome<'e> {
    micros
        .and_then(duration_in_range)
        .map(Value::Duration)
        .ok_or_else(|| Fault::of_value("the duration is out of range"))
}

/// `-x`.
pub(super) fn negate<'e>(value: &Value<'e>) -> Outcome<'e> {
    match value {
        Value::Int(int) => int
            .checked_neg()
            .map(Value::Int)
            .ok_or_else(|| Fault::of_value("the number is out of range")),
        Value::Double(double) => Ok(Value::Double(-double)),
        other => Err(Fault::of_type(format!(
            "`-` does not take {}",
            other.type_name()
        ))),
    }
}

/// `< <= > >=`. A comparison with a number that is none (`0.0 / 0.0`) is false.
pub(super) fn ordered(
    op: BinaryOp,
    left: &Value<'_>,
    right: &Value<'_>,
    meter: &Meter,
) -> Result<bool, Box<Fault>> {
    let order = match (left, right) {
        (Value::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
        (Value::Int(left), Value::Int(right))
        | (Value::Timestamp(left), Value::Timestamp(right))
        | (Value::Duration(left), Value::Duration(right)) => Some(left.cmp(right)),
        (Value::Int(left), Value::Double(right)) => (*left as f64).partial_cmp(right),
        (Value::Double(left), Value::Int(right)) => left.partial_cmp(&(*right as f64)),
        (Value::Double(left), Value::Double(right)) => left.partial_cmp(right),
        (Value::Text(left), Value::Text(right)) => {
            meter.text(left.len().min(right.len()))?;
            Some((**left).cmp(&**right))
        }
        _ => return Err(refuse(op, left, right)),
    };
    Ok(order.is_some_and(|order| match op {
        BinaryOp::Less => order == Ordering::Less,
        BinaryOp::LessOrEqual => order != Ordering::Greater,
        BinaryOp::Greater => order == Ordering::Greater,
        _ => order != Ordering::Less,
    }))
}
