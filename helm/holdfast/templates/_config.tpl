{{/* The configuration, and what the pod must know of it. */}}

{{/* The configuration as it is mounted: the values', with the tokens of the admin listener. What the values say wins. */}}
{{- define "holdfast.config" -}}
{{- $config := .Values.config | default dict -}}
{{- if kindIs "string" $config -}}
{{- $config = fromYaml $config -}}
{{- with $config.Error -}}{{- fail (printf "config: not YAML: %s" .) -}}{{- end -}}
{{- end -}}
{{- if not (and $config.upstreams $config.endpoints) -}}
{{- fail "config: expected Holdfast's configuration with `upstreams` and `endpoints`, for instance by --set-file config=holdfast.yaml" -}}
{{- end -}}
{{- if .Values.adminTokens.existingSecret -}}
{{- $tokens := dict -}}
{{- range $key, $scopes := .Values.adminTokens.scopes -}}
{{- $_ := set $tokens $key (dict "token_file" (printf "/run/secrets/holdfast/admin/%s" $key) "scopes" $scopes) -}}
{{- end -}}
{{- $config = mergeOverwrite (dict "admin" (dict "listen" "0.0.0.0:8001" "tokens" $tokens)) (deepCopy $config) -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/*
Facts of the configuration, as YAML:
websocketPort, isTls; adminPort, adminUrl (inside of the pod), isAdminOpen (not on loopback), isAdminTls;
probe (`http`: by the kubelet; `exec`: by the binary, inside; `tcp`: of the clients' port, where neither could show a certificate or
check one); drain (the options of `holdfast drain`, where it may be called inside of the pod); graceSeconds, appSleepSeconds.
*/}}
{{- define "holdfast.facts" -}}
{{- $config := include "holdfast.config" . | fromYaml -}}
{{- $admin := $config.admin | default dict -}}
{{- $adminTls := $admin.tls | default dict -}}
{{- $adminListen := $admin.listen | default "127.0.0.1:8001" -}}
{{- $adminPort := include "holdfast.port" (dict "key" "admin.listen" "text" $adminListen) -}}
{{- $isOpen := not (regexMatch "^(127\\.|\\[::1\\])" $adminListen) -}}
{{- $url := printf "%s://%s" (empty $adminTls | ternary "http" "https") ($isOpen | ternary (printf "127.0.0.1:%s" $adminPort) $adminListen) -}}
{{- $asksCertificate := and $adminTls.client_ca_file (ne ($adminTls.client_auth | default "required") "optional") -}}
{{- $probe := and $isOpen (not $asksCertificate) | ternary "http" (and (not $isOpen) (empty $adminTls) | ternary "exec" "tcp") -}}
{{- $drain := $config.drain | default dict -}}
{{- $preStop := .Values.preStopSleepSeconds | int -}}
{{- $deadline := include "holdfast.seconds" (dict "key" "drain.deadline" "text" ($drain.deadline | default "30s")) | int -}}
{{- $window := include "holdfast.seconds" (dict "key" "drain.window" "text" ($drain.window | default "5s")) | int -}}
{{- $appSleep := .Values.sidecar.appSleepSeconds | default (add $preStop $window 5) | int -}}
{{- /* A native sidecar gets its SIGTERM when the app is gone, any other one with the app. */ -}}
{{- $before := and (eq .Values.mode "sidecar") .Values.sidecar.native | ternary (max $preStop $appSleep) $preStop -}}
websocketPort: {{ include "holdfast.port" (dict "key" "listen" "text" ($config.listen | default "0.0.0.0:8000")) }}
isTls: {{ not (empty $config.tls) }}
adminPort: {{ $adminPort }}
adminUrl: {{ $url | quote }}
isAdminOpen: {{ $isOpen }}
isAdminTls: {{ not (empty $adminTls) }}
probe: {{ $probe }}
drain: {{ include "holdfast.drainOptions" (dict "admin" $admin "url" $url) }}
graceSeconds: {{ .Values.terminationGracePeriodSeconds | default (add $before $deadline 5) }}
appSleepSeconds: {{ $appSleep }}
{{- end -}}

{{/* Options of `holdfast drain` inside of the pod, as a list; an empty one where it would be refused. */}}
{{- define "holdfast.drainOptions" -}}
{{- $files := list -}}
{{- range $token := .admin.tokens | default dict -}}
{{- if and $token.token_file (has "admin" $token.scopes) -}}
{{- $files = append $files $token.token_file -}}
{{- end -}}
{{- end -}}
{{- if .admin.tls -}}
[]
{{- else if $files -}}
{{- list "--admin" .url "--token-file" (first $files) | toJson -}}
{{- else if or .admin.tokens .admin.token -}}
[]
{{- else -}}
{{- list "--admin" .url | toJson -}}
{{- end -}}
{{- end -}}

{{/* The port of an address. */}}
{{- define "holdfast.port" -}}
{{- $port := regexFind ":[0-9]+$" .text -}}
{{- if not $port -}}
{{- fail (printf "config.%s: expected an address and a port as in 0.0.0.0:8000, found %q" .key .text) -}}
{{- end -}}
{{- trimPrefix ":" $port -}}
{{- end -}}

{{/* A duration such as `30s` or `1m 30s` in whole seconds, rounded up. */}}
{{- define "holdfast.seconds" -}}
{{- $text := toString .text -}}
{{- $units := dict "ms" 1 "msec" 1 "s" 1000 "sec" 1000 "secs" 1000 "second" 1000 "seconds" 1000 "m" 60000 "min" 60000 "mins" 60000 "minute" 60000 "minutes" 60000 "h" 3600000 "hr" 3600000 "hour" 3600000 "hours" 3600000 -}}
{{- if not (regexMatch "^([0-9]+ *[a-z]+ *)+$" $text) -}}
{{- fail (printf "config.%s: expected a duration as in 30s or 1m 30s, found %q" .key $text) -}}
{{- end -}}
{{- $ms := 0 -}}
{{- range regexFindAll "[0-9]+ *[a-z]+" $text -1 -}}
{{- $unit := get $units (regexFind "[a-z]+" .) | required (printf "config.%s: the unit of %q is not known" $.key .) -}}
{{- $ms = add $ms (mul (regexFind "[0-9]+" . | int) $unit) -}}
{{- end -}}
{{- div (add $ms 999) 1000 -}}
{{- end -}}
