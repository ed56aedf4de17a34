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

{{- define "espalier.healthHost" -}}
{{- $host := regexReplaceAll ":[0-9]+$" .Values.metrics.listen "" | trimAll "[]" -}}
{{- if has $host (list "0.0.0.0" "::" "") }}127.0.0.1{{ else }}{{ $host }}{{ end -}}
{{- end }}

{{- define "espalier.healthPort" -}}
{{- regexFind "[0-9]+$" .Values.metrics.listen -}}
{{- end }}
