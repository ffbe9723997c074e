package document

// within returns the condition that the caller and the called resource belong to the account.
func within(p Place) Condition {
	return Condition{"StringEquals": {"aws:PrincipalAccount": {p.Account}, "aws:ResourceAccount": {p.Account}}}
}

// Trust lets a service assume a role, for resources of the place only. resource says which
// resources, such as "ecs:*".
func Trust(p Place, service string, sources ...ARN) Policy {
	s := Statement{Sid: "Trust", Effect: Allow, Principal: &Principal{Service: []string{service}}, Action: []string{"sts:AssumeRole"}}
	if len(sources) > 0 {
		s.Condition = Condition{
			"StringEquals": {"aws:SourceAccount": {p.Account}},
			"ArnLike":      {"aws:SourceArn": strs(sources)},
		}
	}
	return NewPolicy(s)
}

func strs(arns []ARN) []string {
	out := make([]string, 0, len(arns))
	for _, a := range arns {
		out = append(out, string(a))
	}
	return out
}
