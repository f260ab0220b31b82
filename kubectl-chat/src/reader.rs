//! Talks to the API server; nothing else here does.

use anyhow::{Context, bail};
use crds::ChatCluster;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Request;
use kube::{Client, Config, CustomResourceExt as _, ResourceExt as _};
use serde_json::json;

use crate::Place;
use crate::doctor::{Facts, Read};
use crate::status::Told;

/// Port of a chat node that says whether it is ready.
const ADMIN_PORT: u16 = 9090;
/// Characters of a node's answer that are shown.
const ANSWER_CHARACTERS: usize = 300;

/// Access to one namespace.
pub(crate) struct Reader {
    client: Client,
    namespace: String,
}

impl Reader {
    /// As kubectl would reach it.
    pub(crate) async fn new(place: &Place) -> anyhow::Result<Reader> {
        let options = KubeConfigOptions { context: place.context.clone(), ..Default::default() };
        let mut config = match &place.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path).context("read --kubeconfig")?;
                Config::from_custom_kubeconfig(file, &options).await?
            }
            None if place.context.is_some() => Config::from_kubeconfig(&options).await?,
            None => Config::infer().await.context("find the API server")?,
        };
        if let Some(namespace) = &place.namespace {
            config.default_namespace.clone_from(namespace);
        }
        // A person waits for the answer, and a node that takes no clients says so with a code that would be tried again.
        config.default_retry = false;
        let namespace = config.default_namespace.clone();
        let client = Client::try_from(config).context("make a client of the API server")?;
        Ok(Reader { client, namespace })
    }

    fn clusters(&self) -> Api<ChatCluster> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The ChatCluster of this name; without a name the only one of the namespace.
    pub(crate) async fn cluster(&self, name: Option<&str>) -> anyhow::Result<ChatCluster> {
        let namespace = &self.namespace;
        if let Some(name) = name {
            let found = self.clusters().get_opt(name).await.context("read the ChatCluster")?;
            return found.with_context(|| {
                format!("There is no ChatCluster {name} in namespace {namespace}.")
            });
        }
        let found = self.clusters().list(&ListParams::default()).await;
        let mut found = found.context("list ChatClusters")?.items;
        match found.len() {
            0 => bail!("There is no ChatCluster in namespace {namespace}: name one with -n."),
            1 => Ok(found.remove(0)),
            _ => {
                let names: Vec<String> = found.iter().map(ChatCluster::name_any).collect();
                bail!("Say which ChatCluster of namespace {namespace}: {}.", names.join(", "))
            }
        }
    }

    pub(crate) async fn pod(&self, name: &str) -> anyhow::Result<Pod> {
        let found = self.pods().get_opt(name).await.context("read the pod")?;
        let namespace = &self.namespace;
        found.with_context(|| format!("There is no pod {name} in namespace {namespace}."))
    }

    /// Writes an annotation of a ChatCluster.
    pub(crate) async fn annotate(&self, name: &str, key: &str, value: &str) -> anyhow::Result<()> {
        let patch = json!({"metadata": {"annotations": {key: value}}});
        self.clusters()
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .context("annotate the ChatCluster")?;
        Ok(())
    }

    /// Writes an annotation of a pod, or takes it away.
    pub(crate) async fn annotate_pod(
        &self,
        name: &str,
        key: &str,
        value: Option<&str>,
    ) -> anyhow::Result<()> {
        let patch = json!({"metadata": {"annotations": {key: value}}});
        self.pods()
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .context("annotate the pod")?;
        Ok(())
    }

    /// Events of a ChatCluster. Nobody is kept from the rest because these may not be read.
    pub(crate) async fn events(&self, cluster: &ChatCluster) -> Vec<Told> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let fields = format!("regarding.kind=ChatCluster,regarding.name={}", cluster.name_any());
        let list = api.list(&ListParams::default().fields(&fields)).await;
        let events = list.map(|list| list.items).unwrap_or_default();
        events.into_iter().map(told).collect()
    }

    /// Everything that the doctor looks at.
    pub(crate) async fn facts(&self, cluster: ChatCluster) -> Facts {
        let name = cluster.name_any();
        let of_cluster = ListParams::default().labels(&format!("{}={name}", crds::CLUSTER_LABEL));
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let definition = definitions.get_opt(ChatCluster::crd_name()).await;
        let definition = definition
            .map(|found| found.and_then(|found| serde_json::to_value(found).ok()))
            .map_err(short);
        let claims: Api<PersistentVolumeClaim> =
            Api::namespaced(self.client.clone(), &self.namespace);
        let pods = self.pods().list(&of_cluster).await.map(|list| list.items).map_err(short);
        let mut nodes = Vec::new();
        for pod in pods.iter().flatten().filter(|pod| is_running_node(pod)) {
            let name = pod.name_any();
            nodes.push((name.clone(), self.ask(&name).await));
        }
        Facts {
            definition,
            leases: self.leases().await,
            cluster,
            pods,
            claims: claims.list(&of_cluster).await.map(|list| list.items).map_err(short),
            nodes,
        }
    }

    /// Leases of operators that may look after this namespace, wherever they are.
    async fn leases(&self) -> Read<Vec<Lease>> {
        let mut found = Vec::new();
        for name in [crds::OPERATOR.to_owned(), format!("{}-{}", crds::OPERATOR, self.namespace)] {
            let api: Api<Lease> = Api::all(self.client.clone());
            let one = ListParams::default().fields(&format!("metadata.name={name}"));
            found.extend(api.list(&one).await.map_err(short)?.items);
        }
        Ok(found)
    }

    /// Asks a chat node through the API server whether it is ready. The API server keeps credentials to itself, so only
    /// what needs none can be asked.
    async fn ask(&self, pod: &str) -> Read<Option<String>> {
        let request = Request::new(format!("/api/v1/namespaces/{}/pods", self.namespace));
        let request = request
            .get_subresource("proxy/ready", &format!("{pod}:{ADMIN_PORT}"))
            .map_err(|error| error.to_string())?;
        match self.client.request_text(request).await {
            Ok(_) => Ok(None),
            // A refusal of the API server itself has this reason: it did not reach the pod.
            Err(kube::Error::Api(status))
                if status.code == 503 && status.reason != "ServiceUnavailable" =>
            {
                Ok(Some(status.message.chars().take(ANSWER_CHARACTERS).collect()))
            }
            Err(error) => Err(short(error)),
        }
    }
}

fn is_running_node(pod: &Pod) -> bool {
    let is_chat = pod.labels().get(crds::COMPONENT_LABEL).is_some_and(|part| part == "chat");
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    is_chat && phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
}

fn short(error: kube::Error) -> String {
    let text = match error {
        kube::Error::Api(status) => status.message,
        error => error.to_string(),
    };
    text.chars().take(ANSWER_CHARACTERS).collect()
}

fn told(event: Event) -> Told {
    let series = event.series.as_ref().map(|series| series.last_observed_time.0);
    let at = series
        .or_else(|| event.event_time.as_ref().map(|time| time.0))
        .or_else(|| event.metadata.creation_timestamp.as_ref().map(|time| time.0));
    Told {
        at: at.unwrap_or(Timestamp::MIN),
        reason: event.reason.unwrap_or_default(),
        message: event.note.unwrap_or_default(),
        warning: event.type_.as_deref() == Some("Warning"),
    }
}
