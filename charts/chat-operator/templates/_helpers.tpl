{{- define "chat-operator.labels" -}}
app.kubernetes.io/name: chat-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "chat-operator.selector" -}}
app.kubernetes.io/name: chat-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* What the operator may do with ChatClusters and what they own; the same in both modes. */ -}}
{{- define "chat-operator.rules" -}}
- apiGroups: [chatcluster.dev]
  resources: [chatclusters]
  verbs: [get, list, watch, patch]
- apiGroups: [chatcluster.dev]
  resources: [chatclusters/status]
  verbs: [update]
# To own objects of a ChatCluster where owners must be allowed to hold up its deletion.
- apiGroups: [chatcluster.dev]
  resources: [chatclusters/finalizers]
  verbs: [update]
# StatefulSets are never deleted by the operator: they go with their ChatCluster.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch, delete]
# Pods are deleted when their clients have moved; nothing else of them is written.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, delete]
# Volumes are made larger. Those of members of the database are deleted that have left its ring, or that somebody calls lost.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [list, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{- /* To see which machines are being emptied. They belong to no namespace. */ -}}
{{- define "chat-operator.machineRules" -}}
- apiGroups: [""]
  resources: [nodes]
  verbs: [list, watch]
{{- end }}
