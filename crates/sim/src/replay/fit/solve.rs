//! Costs from equations: weighted least squares of relative errors, without negative costs, robust to outliers,
//! and held by a weak prior where the equations say nothing.

use super::load::{Equation, N_COSTS};

/// Rounds of weighting by residuals; weights have settled long before.
const ROUNDS: usize = 12;
/// Sweeps over the costs, which converge linearly.
const SWEEPS: usize = 400;
/// Relative residuals larger than this many times the usual one count less: Huber's constant.
pub(super) const HUBER: f64 = 1.345;
/// The median of a normal deviate's absolute value.
const NORMAL_MEDIAN: f64 = 0.6745;
/// Residuals are never taken for more exact than this.
const MIN_SCALE: f64 = 0.005;

/// Costs in seconds, in the order of [`Equation::factors`].
pub(super) type Costs = [f64; N_COSTS];

/// What costs are taken for as long as nothing says otherwise.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prior {
    pub(super) mean: Costs,
    /// How far from it a cost may well be.
    pub(super) spread: Costs,
    /// What one standard deviation off weighs, in equations.
    pub(super) weight: f64,
}

/// The costs that fit the equations best, and how well they are known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Solution {
    pub(super) costs: Costs,
    /// Standard errors, as if equations were independent; at most the prior's spreads.
    pub(super) errors: Costs,
}

/// The costs that fit the equations best.
pub(super) fn solve(equations: &[&Equation], prior: &Prior) -> Solution {
    let mut costs = prior.mean;
    let mut weights = vec![1.0; equations.len()];
    let mut last_scale = MIN_SCALE;
    for _ in 0..ROUNDS {
        let (matrix, right) = normal_equations(equations, &weights, prior);
        descend(&matrix, &right, &mut costs);
        let residuals: Vec<f64> =
            equations.iter().map(|equation| relative_residual(equation, &costs)).collect();
        let scale = scale_of(residuals.iter().copied()).max(MIN_SCALE);
        for (weight, residual) in weights.iter_mut().zip(&residuals) {
            *weight = huber_weight(residual / scale);
        }
        last_scale = scale;
    }
    let errors = errors(&normal_equations(equations, &weights, prior).0, last_scale, prior);
    Solution { costs, errors }
}

/// From the inverse of the normal equations' matrix.
fn errors(matrix: &[Costs; N_COSTS], scale: f64, prior: &Prior) -> Costs {
    // In units of the spreads, so that costs of different sizes stand beside each other.
    let scaled: Vec<Vec<f64>> = (0..N_COSTS)
        .map(|row| {
            (0..N_COSTS).map(|k| matrix[row][k] * prior.spread[row] * prior.spread[k]).collect()
        })
        .collect();
    let mut errors = prior.spread;
    for (at, error) in errors.iter_mut().enumerate() {
        let mut unit = vec![0.0; N_COSTS];
        unit[at] = scale * scale;
        let variance = linear(scaled.clone(), unit).map_or(1.0, |column| column[at]);
        *error *= variance.clamp(0.0, 1.0).sqrt();
    }
    errors
}

/// How much more than predicted it took, as a share of what it took.
fn relative_residual(equation: &Equation, costs: &Costs) -> f64 {
    (equation.seconds - predicted(equation, costs)) / equation.seconds
}

pub(super) fn predicted(equation: &Equation, costs: &Costs) -> f64 {
    equation.factors.iter().zip(costs).map(|(factor, cost)| factor * cost).sum()
}

pub(super) fn huber_weight(residual: f64) -> f64 {
    if residual.abs() <= HUBER { 1.0 } else { HUBER / residual.abs() }
}

/// The usual size of residuals: their median without sign, scaled to a standard deviation.
pub(super) fn scale_of(residuals: impl Iterator<Item = f64>) -> f64 {
    let absolute: Vec<f64> = residuals.map(f64::abs).collect();
    quantile(absolute, 0.5).map_or(0.0, |median| median / NORMAL_MEDIAN)
}

/// The value that such a share of all is not above.
pub(super) fn quantile(mut values: Vec<f64>, share: f64) -> Option<f64> {
    values.retain(|value| !value.is_nan());
    let last = values.len().checked_sub(1)?;
    let nth = (last as f64 * share.clamp(0.0, 1.0)).round() as usize;
    let (_, value, _) = values.select_nth_unstable_by(nth, f64::total_cmp);
    Some(*value)
}

/// The matrix and the right side of the weighted normal equations, with the prior.
fn normal_equations(
    equations: &[&Equation],
    weights: &[f64],
    prior: &Prior,
) -> ([Costs; N_COSTS], Costs) {
    let mut matrix = [[0.0; N_COSTS]; N_COSTS];
    let mut right = [0.0; N_COSTS];
    for (equation, weight) in equations.iter().zip(weights) {
        let weight = weight / equation.seconds.powi(2);
        for (row, factor) in equation.factors.iter().enumerate() {
            right[row] += weight * factor * equation.seconds;
            for (column, other) in equation.factors.iter().enumerate() {
                matrix[row][column] += weight * factor * other;
            }
        }
    }
    for at in 0..N_COSTS {
        let stiffness = prior.weight / prior.spread[at].powi(2);
        matrix[at][at] += stiffness;
        right[at] += stiffness * prior.mean[at];
    }
    (matrix, right)
}

/// Minimises the quadratic form over costs of at least zero, one cost at a time.
fn descend(matrix: &[Costs; N_COSTS], right: &Costs, costs: &mut Costs) {
    for _ in 0..SWEEPS {
        for at in 0..N_COSTS {
            let others: f64 =
                (0..N_COSTS).filter(|&k| k != at).map(|k| matrix[at][k] * costs[k]).sum();
            if matrix[at][at] > 0.0 {
                costs[at] = ((right[at] - others) / matrix[at][at]).max(0.0);
            }
        }
    }
}

/// Solves a small symmetric system by Gaussian elimination with pivots; `None` where it has no one solution.
pub(super) fn linear(mut matrix: Vec<Vec<f64>>, mut right: Vec<f64>) -> Option<Vec<f64>> {
    let n = right.len();
    for at in 0..n {
        let pivot = (at..n).max_by(|&a, &b| matrix[a][at].abs().total_cmp(&matrix[b][at].abs()))?;
        if matrix[pivot][at].abs() < f64::MIN_POSITIVE || !matrix[pivot][at].is_finite() {
            return None;
        }
        matrix.swap(at, pivot);
        right.swap(at, pivot);
        let (above, below) = matrix.split_at_mut(at + 1);
        let (head, scale) = (above.last()?, above.last()?[at]);
        for (offset, row) in below.iter_mut().enumerate() {
            let factor = row[at] / scale;
            for (value, other) in row.iter_mut().zip(head) {
                *value -= factor * other;
            }
            right[at + 1 + offset] -= factor * right[at];
        }
    }
    for at in (0..n).rev() {
        let known: f64 = (at + 1..n).map(|k| matrix[at][k] * right[k]).sum();
        right[at] = (right[at] - known) / matrix[at][at];
    }
    Some(right)
}
