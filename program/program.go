// Package program is what Postern knows of programs that work as agents: a file for each, with the
// keys that it takes, and what it needs to start in a sandbox as in a home that it knows.
//
// None of that is policy. Which hosts a program needs is a preset of package stacks, which an
// operator publishes: the name of a command opens nothing.
package program

import (
	"bytes"
	"embed"
	"encoding/json"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

//go:embed presets/*.json
var presets embed.FS

// Program describes a program that works as an agent.
type Program struct {
	// Name is the name of its command.
	Name string `json:"-"`
	// Keys are those with which the program can authenticate, the usual one first.
	Keys []Key `json:"keys"`
	// Env are the program's variables, unless the caller sets others.
	Env []Variable `json:"env"`
	// Files are written into the program's home, unless there are such files.
	Files []File `json:"files"`
}

// Key is a variable in which a program looks for a key.
type Key struct {
	Variable string `json:"variable"`
	// Preset names the hosts that the key is for.
	Preset string `json:"preset"`
	// Header is the header that carries the key. Without one the key is a bearer token.
	Header string `json:"header"`
}

// Variable is a variable, and why the program needs it in a sandbox.
type Variable struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	Why   string `json:"why"`
}

// File is a file in a home, and why the program needs it in a sandbox.
type File struct {
	// Path is relative to the home.
	Path  string   `json:"path"`
	Lines []string `json:"lines"`
	Why   string   `json:"why"`
}

// Names returns the names of all programs, sorted.
func Names() []string {
	entries, err := presets.ReadDir("presets")
	if err != nil {
		panic(err) // they are part of this program
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".json"))
	}
	return names
}

// Of returns the program that a command starts, by the last part of its path, or nil.
func Of(command string) *Program {
	name := filepath.Base(command)
	if !slices.Contains(Names(), name) {
		return nil
	}
	data, err := presets.ReadFile(path.Join("presets", name+".json"))
	if err != nil {
		panic(err)
	}
	p := &Program{Name: name}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(p); err != nil {
		panic("preset of " + name + ": " + err.Error()) // TestPresets reads them all
	}
	return p
}

// Key returns the key that the program takes in the variable, or else its usual one.
func (p *Program) Key(variable string) Key {
	i := slices.IndexFunc(p.Keys, func(k Key) bool { return k.Variable == variable })
	return p.Keys[max(i, 0)]
}

// Environ returns Env as NAME=VALUE.
func (p *Program) Environ() []string {
	var env []string
	for _, v := range p.Env {
		env = append(env, v.Name+"="+v.Value)
	}
	return env
}

// Given says in a line what the program gets.
func (p *Program) Given() string {
	var given []string
	for _, v := range p.Env {
		given = append(given, v.Name)
	}
	for _, f := range p.Files {
		given = append(given, "~/"+f.Path)
	}
	return strings.Join(given, ", ")
}
