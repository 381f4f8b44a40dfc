//! The step lines of a run, as columns.

use serde_json::{Map, Value};
use std::collections::HashMap;

/// A longer array in a line is a table of its own, not a set of fields.
const MAX_ARRAY: usize = 16;

/// One row a step. A number in an object or array has its path for a name: `hidden_norm_quantiles.0`.
#[derive(Debug, Default)]
pub struct Steps {
    numbers: Vec<u64>,
    names: Vec<String>,
    places: HashMap<String, usize>,
    /// As long as `numbers` each; NaN where a line has no such field, or null.
    columns: Vec<Vec<f64>>,
}

impl Steps {
    /// Appends a line.
    ///
    /// # Errors
    /// Where it has no step.
    pub fn push(&mut self, fields: &Map<String, Value>) -> serde_json::Result<()> {
        let step = fields.get("step").cloned().unwrap_or(Value::Null);
        self.numbers.push(serde_json::from_value(step)?);
        let row = self.numbers.len() - 1;
        for (name, value) in fields.iter().filter(|(name, _)| !matches!(name.as_str(), "step" | "kind")) {
            self.set(row, name.clone(), value);
        }
        self.columns.iter_mut().for_each(|column| column.resize(row + 1, f64::NAN));
        Ok(())
    }

    fn set(&mut self, row: usize, name: String, value: &Value) {
        match value {
            Value::Object(inner) => {
                inner.iter().for_each(|(key, value)| self.set(row, format!("{name}.{key}"), value));
            }
            Value::Array(items) if items.len() <= MAX_ARRAY => {
                items.iter().enumerate().for_each(|(i, value)| self.set(row, format!("{name}.{i}"), value));
            }
            Value::Number(_) | Value::Null => {
                let columns = &mut self.columns;
                let place = *self.places.entry(name).or_insert_with_key(|name| {
                    self.names.push(name.clone());
                    columns.push(Vec::new());
                    columns.len() - 1
                });
                let column = &mut columns[place];
                column.resize(row, f64::NAN);
                column.push(value.as_f64().unwrap_or(f64::NAN));
            }
            Value::Bool(_) | Value::String(_) | Value::Array(_) => {}
        }
    }

    /// Puts the rows into the order of their steps; of a step that is there twice the later row stays.
    pub fn sort(&mut self) {
        if self.numbers.is_sorted_by(|a, b| a < b) {
            return;
        }
        let mut order: Vec<usize> = (0..self.numbers.len()).collect();
        order.sort_by_key(|&row| (self.numbers[row], std::cmp::Reverse(row)));
        order.dedup_by_key(|row| self.numbers[*row]);
        self.numbers = order.iter().map(|&row| self.numbers[row]).collect();
        for column in &mut self.columns {
            *column = order.iter().map(|&row| column[row]).collect();
        }
    }

    pub fn numbers(&self) -> &[u64] {
        &self.numbers
    }

    /// Names of the columns, in the order in which they were met.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// A column, if there is any number in it.
    pub fn column(&self, name: &str) -> Option<&[f64]> {
        let column = self.columns.get(*self.places.get(name)?)?;
        column.iter().any(|value| value.is_finite()).then_some(column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_that_come_and_go_leave_gaps() {
        let mut steps = Steps::default();
        for line in [
            json!({"step": 2, "loss": 0.5, "q": [1, null]}),
            json!({"step": 1, "loss": null, "new": {"a": 3}}),
            json!({"step": 2, "loss": 0.25, "kind": "step"}),
        ] {
            steps.push(line.as_object().unwrap()).unwrap();
        }
        assert_eq!(steps.names(), ["loss", "q.0", "q.1", "new.a"]);
        steps.sort();
        assert_eq!(steps.numbers(), [1, 2]);
        let bits =
            |name: &str| steps.column(name).map(|c| c.iter().map(|v| (!v.is_nan()).then_some(*v)).collect());
        assert_eq!(bits("loss"), Some(vec![None, Some(0.25)]));
        assert_eq!(bits("new.a"), Some(vec![Some(3.0), None]));
        assert_eq!(bits("q.1"), None, "nothing but null");
        assert!(steps.push(json!({"loss": 1}).as_object().unwrap()).is_err());
    }
}
