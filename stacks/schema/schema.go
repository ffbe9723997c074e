// Package schema has the grammar of stack files as a JSON Schema, for editors.
package schema

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/toolbox/repository"
)

// part is a part of a JSON Schema.
type part = map[string]any

// Stack returns the grammar of stack files as a JSON Schema, for editors. It is made of the
// loader's own tables. It says less than the loader, which alone decides: a schema knows neither
// what names refer to nor what the files of this machine are, and it says nothing of the section
// aws.
func Stack() []byte {
	root := closed(part{
		"version":      part{"const": 1},
		"target":       part{"enum": []string{stacks.TargetLocal, stacks.TargetAWS}},
		"credentials":  byName(stacks.NamePattern, credentialSchema()),
		"destinations": byName(stacks.DestinationNamePattern, destinationSchema()),
		"tools":        byName(stacks.NamePattern, toolSchema()),
		"agents":       byName(stacks.NamePattern, agentSchema()),
		"proxies": closed(part{
			"count": part{"type": "integer", "minimum": 1, "maximum": 16}, "resolvers": list(textSchema()),
		}),
		"guardrails": guardrailsSchema(),
		"aws":        part{"type": "object"},
	}, "version", "target")
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "A stack file of Postern"
	root["if"] = part{"properties": part{"target": part{"const": stacks.TargetLocal}}}
	root["then"] = part{"not": part{"required": []string{"aws"}}}
	root["else"] = part{"properties": part{"proxies": part{"not": part{"required": []string{"count"}}}}}
	text, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		panic(err) // it has nothing but maps, lists and text
	}
	return append(text, '\n')
}

// closed is a mapping with these keys and no other.
func closed(properties part, required ...string) part {
	s := part{"type": "object", "additionalProperties": false, "properties": properties}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

// byName is a mapping whose keys are names.
func byName(pattern string, value part) part {
	return part{"type": "object", "propertyNames": part{"pattern": pattern}, "additionalProperties": value}
}

func textSchema() part { return part{"type": "string", "minLength": 1} }

func like(pattern string) part { return part{"type": "string", "pattern": pattern} }

func boolean() part { return part{"type": "boolean"} }

// list is a list with items, each once.
func list(item part) part {
	return part{"type": "array", "minItems": 1, "uniqueItems": true, "items": item}
}

// anyRequired makes s require one of the keys.
func anyRequired(s part, keys ...string) part {
	var any []part
	for _, key := range keys {
		any = append(any, part{"required": []string{key}})
	}
	s["anyOf"] = any
	return s
}

// credentialSchema has a case for each kind.
func credentialSchema() part {
	var kinds []part
	for _, kind := range plan.Kinds() {
		properties := part{
			"kind": part{"const": string(kind)}, "secret": textSchema(),
			"placeholders": list(like(stacks.VariablePattern)),
		}
		required := []string{"kind", "secret"}
		for _, key := range stacks.KindFields[kind] {
			key, needed := strings.CutSuffix(key, "!")
			properties[key] = textSchema()
			if needed {
				required = append(required, key)
			}
			switch key {
			case "scopes":
				properties[key] = list(textSchema())
			case "app", "installation": // numbers, too
				properties[key] = part{"type": []string{"string", "integer"}}
			case "prefix":
				properties[key] = part{"type": "string", "minLength": 1, "maxLength": stacks.MaxPrefix}
			}
		}
		kinds = append(kinds, closed(properties, required...))
	}
	return part{"oneOf": kinds}
}

// people are the keys that are there for people, and the end of an access.
func people(s part) part {
	s["expires"], s["owner"] = part{"type": "string", "format": "date-time"}, textSchema()
	s["reason"] = part{"type": "string", "minLength": 1, "maxLength": 500}
	return s
}

// matching are the keys that choose requests: see the rules of a stack file.
func matching(s part) part {
	conditions := part{
		"type": "object", "minProperties": 1,
		"additionalProperties": part{"type": "string", "minLength": 1, "maxLength": stacks.MaxCondition},
	}
	s["deny"], s["methods"], s["paths"] = boolean(), list(part{"enum": stacks.Methods}), list(like("^/"))
	s["query"], s["headers"] = conditions, conditions
	return s
}

func destinationSchema() part {
	port := part{"type": "integer", "minimum": 1, "maximum": 65535}
	properties := people(matching(part{
		"host": textSchema(), "port": port, "mode": part{"enum": []string{"intercept", plan.ModeTunnel, "gateway"}},
		"rules":      list(closed(people(matching(part{"name": like(stacks.RuleNamePattern)})), "name")),
		"git":        gitSchema(),
		"credential": textSchema(), "gateway": port, "limits": limitsSchema(),
		"own_credentials": closed(part{"allow": boolean(), "reason": textSchema()}, "allow", "reason"),
		"upstream": anyRequired(closed(part{
			"address": textSchema(), "plain_http": boolean(),
			"ca": part{"anyOf": []part{textSchema(), list(textSchema())}},
		}), "address", "ca"),
	}))
	destination := closed(properties, "host")
	destination["if"] = anyRequired(part{}, "rules", "git")
	destination["then"] = part{"not": anyRequired(part{}, stacks.ShortForm...)}
	return destination
}

func gitSchema() part {
	return anyRequired(closed(part{
		"read": list(like(stacks.RepositoryPattern)), "write": list(like(stacks.RepositoryPattern)), "lfs": boolean(),
	}), "read", "write")
}

func guardrailsSchema() part {
	waiver := part{"guardrail": textSchema(), "expires": part{"type": "string", "format": "date"}}
	for _, key := range []string{"resource", "owner", "reason"} {
		waiver[key] = textSchema()
	}
	return closed(part{
		"production": boolean(), "policies": textSchema(),
		"waivers": part{"type": "array", "items": closed(waiver, slices.Sorted(maps.Keys(waiver))...)},
	})
}

func limitsSchema() part {
	size := func(suffix string) part { return like(`^[1-9][0-9]{0,11}(B|KiB|MiB|GiB)` + suffix + `$`) }
	limits := closed(part{
		"requests":   like(stacks.RatePattern.String()),
		"concurrent": part{"type": "integer", "minimum": 1, "maximum": 1000000},
		"body":       size(""), "upload": size("/s"), "download": size("/s"),
	})
	limits["minProperties"] = 1
	return limits
}

func agentSchema() part {
	size := limitsSchema()["properties"].(part)["body"]
	preset := part{"enum": append(stacks.PresetNames(), stacks.ClientPresets()...)}
	item := closed(part{
		"name": preset, "credential": textSchema(), "gateway": part{"type": "integer"},
		"read": list(like(stacks.RepositoryPattern)), "write": list(like(stacks.RepositoryPattern)), "lfs": boolean(),
	}, "name")
	return closed(part{
		"runtime": part{"enum": plan.Runtimes()}, "image": textSchema(),
		"allow":   part{"type": "array", "uniqueItems": true, "items": textSchema()},
		"presets": part{"type": "array", "uniqueItems": true, "items": part{"anyOf": []part{preset, item}}},
		"limits":  limitsSchema(),
		"workspace": closed(part{
			"mode": part{"enum": plan.WorkspaceModes()}, "size": size, "name": textSchema(), "hide": list(textSchema()),
			"show": part{"type": "object"},
		}, "mode"),
		"home": closed(part{"persist": boolean(), "size": size}, "persist"),
		"tools": closed(part{
			"git": closed(part{"repositories": list(like(repository.Pattern))}, "repositories"),
			"own": list(like(stacks.NamePattern)),
		}),
	})
}

// toolSchema says of each argument only that it has a type.
func toolSchema() part {
	arguments := closed(part{
		"type": part{"const": "object"}, "description": textSchema(), "required": list(textSchema()),
		"properties": part{
			"type": "object", "additionalProperties": part{"type": "object", "required": []string{"type"}},
		},
	})
	return closed(part{
		"about": textSchema(), "command": part{"type": "array", "items": textSchema(), "minItems": 1},
		"arguments": arguments, "env": list(like(stacks.VariablePattern)), "time": like(`^[1-9][0-9]*s$`),
		"output": textSchema(), "concurrent": part{"type": "integer", "minimum": 1, "maximum": 8},
	}, "about", "command")
}
