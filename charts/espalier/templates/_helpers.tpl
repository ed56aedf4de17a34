{{- define "espalier.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* Call with a dict of root and component. */}}
{{- define "espalier.labels" -}}
app.kubernetes.io/name: espalier
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "espalier.selector" -}}
app.kubernetes.io/name: espalier
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* What the Service of the API server would say; without kube-proxy that
     address leads nowhere, and these win over it. */}}
{{- define "espalier.apiServer" -}}
{{- with .Values.apiServer }}
{{- if .host }}
- name: KUBERNETES_SERVICE_HOST
  value: {{ .host | quote }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ .port | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* Checked here and not by the schema: this message says what to do. */}}
{{- define "espalier.clusterPodCIDRs" -}}
{{- if not .Values.clusterPodCIDRs }}
{{- fail (printf "%s\n%s\n%s\n%s\n%s\n%s"
  "\n\nclusterPodCIDRs is not set: Espalier must know which addresses are pods'."
  "It is what the controller manager was started with as --cluster-cidr. To find it:"
  "  kubectl -n kube-system get configmap kubeadm-config -o yaml | grep podSubnet"
  "  kubectl get nodes -o jsonpath='{range .items[*]}{.spec.podCIDRs}{\"\\n\"}{end}'   # each node's part of it"
  "then, for example:"
  "  helm install espalier ... --set 'clusterPodCIDRs={10.244.0.0/16,fd00:244::/48}'\n") }}
{{- end }}
{{- toJson .Values.clusterPodCIDRs }}
{{- end }}

{{/* Call with the value and its name. Plain HTTP stays on the node. */}}
{{- define "espalier.healthHost" -}}
{{- $host := regexReplaceAll ":[0-9]+$" .listen "" | trimAll "[]" | replace "localhost" "127.0.0.1" -}}
{{- if not (or (eq $host "::1") (regexMatch "^127\\.[0-9.]+$" $host)) }}
{{- fail (printf "%s is %s: metrics and health over plain HTTP are for the node alone, for instance 127.0.0.1:9469. metrics.secure.enabled serves the metrics to others" .name .listen) }}
{{- end }}
{{- $host }}
{{- end }}

{{- define "espalier.port" -}}
{{- regexFind "[0-9]+$" . -}}
{{- end }}

{{/* Of an endpoint of a PodMonitor: call with root and listen. No port is
     declared (it would be a host port), so the operator's own choice by port
     would find no target: the address says it. */}}
{{- define "espalier.secureEndpoint" -}}
path: /metrics
scheme: https
# The metrics' own labels pod and node mean what is told, not who tells it.
honorLabels: true
tlsConfig:
  serverName: {{ .root.Values.metrics.secure.serverName }}
  ca:
    secret: {name: {{ .root.Values.metrics.secure.secretName }}, key: ca.crt}
authorization:
  type: Bearer
  credentials: {name: espalier-metrics-token, key: token}
relabelings:
  - sourceLabels: [__meta_kubernetes_pod_ip]
    regex: ([0-9.]+)
    replacement: $1:{{ include "espalier.port" .listen }}
    targetLabel: __address__
  - sourceLabels: [__meta_kubernetes_pod_ip]
    regex: (.*:.*)
    replacement: "[$1]:{{ include "espalier.port" .listen }}"
    targetLabel: __address__
  - sourceLabels: [__meta_kubernetes_pod_node_name]
    targetLabel: node
{{- end }}

{{- define "espalier.agentConfig" -}}
{{- $own := dict
  "cluster" (dict
    "source" "kubernetes"
    "podCIDRs" (include "espalier.clusterPodCIDRs" . | fromJsonArray)
    "plaintextPath" .Values.plaintextPath)
  "modes" (dict "default" .Values.defaultMode)
  "node" (dict "uplinkMTU" .Values.network.uplinkMTU)
  "encryptNodeTraffic" .Values.encryptNodeTraffic
  "datapath" (dict "driver" .Values.datapath.driver
    "espdSocket" "/run/espalier/espd.sock")
  "sockets" (dict "metrics" .Values.metrics.listen)
  "runDirectory" "/run/espalier"
  "stateDirectory" .Values.paths.state
  "logLevel" .Values.agent.logLevel }}
{{- with .Values.metrics.secure }}
{{- if .enabled }}
{{- $_ := set $own.sockets "secureMetrics" (dict
  "listen" .agentListen
  "certificateFile" "/etc/espalier-metrics/tls.crt"
  "keyFile" "/etc/espalier-metrics/tls.key") }}
{{- end }}
{{- end }}
{{- if .Values.nodeCIDRs }}
{{- $_ := set $own.cluster "nodeCIDRs" .Values.nodeCIDRs }}
{{- end }}
{{- if and (eq .Values.defaultMode "disabled") (eq .Values.plaintextPath "none") }}
{{- fail "defaultMode is disabled, but plaintextPath is none: disabled pods would reach no other node. Set plaintextPath=direct or vxlan." }}
{{- end }}
{{- mergeOverwrite $own (deepCopy .Values.agent.config) | toYaml }}
{{- end }}

{{/* helm uninstall prints it under "kept": it has to say by itself what stays,
     and until when. */}}
{{- define "espalier.uninstallName" -}}
nodes-keep-their-guards-until-kubectl-espalier-uninstall
{{- end }}
