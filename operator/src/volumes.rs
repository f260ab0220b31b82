//! Volumes that have to become larger: a function of the claims that there are.
//!
//! The template of a StatefulSet's claims cannot change, so it stays as it was made, and each claim is written: those of
//! later members too, once they are there.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;

use crate::apply::quantity;

/// A claim and the size that it should have.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Growth {
    /// Its name.
    pub claim: String,
    /// Size, as a quantity.
    pub size: String,
}

/// The claims that ask for less than `size`.
pub fn too_small<'a>(
    claims: impl IntoIterator<Item = &'a PersistentVolumeClaim>,
    size: &str,
) -> Vec<Growth> {
    let Some(wanted) = quantity(size) else { return Vec::new() };
    let small = claims.into_iter().filter(|claim| {
        claim.metadata.deletion_timestamp.is_none()
            && requested(claim).is_some_and(|requested| requested < wanted)
    });
    small.map(|claim| Growth { claim: claim.name_any(), size: size.to_owned() }).collect()
}

/// What a claim asks for, in bytes.
fn requested(claim: &PersistentVolumeClaim) -> Option<f64> {
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    quantity(&requests.get("storage")?.0)
}

/// Claims that asked for more than they have got yet.
pub fn growing<'a>(claims: impl IntoIterator<Item = &'a PersistentVolumeClaim>) -> Vec<String> {
    let growing = claims.into_iter().filter(|claim| {
        let capacity = claim.status.as_ref().and_then(|status| status.capacity.as_ref());
        let capacity = capacity.and_then(|capacity| quantity(&capacity.get("storage")?.0));
        // A claim that is not bound has no capacity, and is another matter.
        capacity.zip(requested(claim)).is_some_and(|(capacity, requested)| capacity < requested)
    });
    growing.map(ResourceExt::name_any).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claim(name: &str, requested: &str, capacity: &str) -> PersistentVolumeClaim {
        let value = json!({
            "metadata": {"name": name},
            "spec": {"resources": {"requests": {"storage": requested}}},
            "status": {"capacity": {"storage": capacity}},
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn claims_grow_and_never_shrink() {
        let claims =
            [claim("a", "10Gi", "10Gi"), claim("b", "20Gi", "20Gi"), claim("c", "30Gi", "30Gi")];
        let growth = Growth { claim: "a".to_owned(), size: "20Gi".to_owned() };
        assert_eq!(too_small(&claims, "20Gi"), [growth]);
        assert_eq!(too_small(&claims, "much"), []);
        let mut ending = claims[0].clone();
        ending.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(too_small(&[ending], "20Gi"), []);
    }

    #[test]
    fn a_claim_grows_until_its_volume_has_what_it_asks_for() {
        let claims = [claim("a", "20Gi", "10Gi"), claim("b", "20Gi", "20480Mi")];
        assert_eq!(growing(&claims), ["a"]);
        let mut unbound = claims[0].clone();
        unbound.status = None;
        assert_eq!(growing(&[unbound]), Vec::<String>::new());
    }
}
