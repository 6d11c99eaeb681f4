//! The names in a client's certificate, after somebody else has verified it: what rules and logs call its holder.

/// Who a certificate is for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateNames {
    /// CN of the subject; none if it has several, for they could be read in two ways.
    pub common_name: Option<String>,
    /// `subjectAltName`, in its order; kinds that name no client are left out.
    pub alternative: Vec<AlternativeName>,
}

/// Which of them is the client's name: `identity` of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NameFrom {
    /// `cn`
    #[default]
    CommonName,
    /// `san-dns`
    Dns,
    /// `san-uri`
    Uri,
    /// `san-email`
    Email,
}

impl CertificateNames {
    /// The client's name; the first one, if there are several of that kind.
    pub fn name(&self, from: NameFrom) -> Option<&str> {
        let named = |alternative: &&AlternativeName| {
            matches!(
                (from, alternative),
                (NameFrom::Dns, AlternativeName::Dns(_))
                    | (NameFrom::Uri, AlternativeName::Uri(_))
                    | (NameFrom::Email, AlternativeName::Email(_))
            )
        };
        let name = match from {
            NameFrom::CommonName => self.common_name.as_deref(),
            _ => self.alternative.iter().find(named).map(|alternative| match alternative {
                AlternativeName::Dns(name) | AlternativeName::Uri(name) | AlternativeName::Email(name) => name.as_str(),
            }),
        };
        name.filter(|name| !name.is_empty())
    }
}

/// One `subjectAltName` (RFC 5280, section 4.2.1.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlternativeName {
    /// `dNSName`
    Dns(String),
    /// `uniformResourceIdentifier`
    Uri(String),
    /// `rfc822Name`
    Email(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_the_name_that_its_listener_asks_for_and_no_other() {
        let alternative = vec![
            AlternativeName::Uri("urn:pump".to_owned()),
            AlternativeName::Dns("pump.plant".to_owned()),
            AlternativeName::Dns("other".to_owned()),
        ];
        let names = CertificateNames { common_name: Some("pump".to_owned()), alternative };
        let all = [NameFrom::CommonName, NameFrom::Dns, NameFrom::Uri, NameFrom::Email].map(|from| names.name(from));
        assert_eq!(all, [Some("pump"), Some("pump.plant"), Some("urn:pump"), None]);
        let nameless = CertificateNames { common_name: Some(String::new()), alternative: Vec::new() };
        assert_eq!(nameless.name(NameFrom::CommonName), None);
    }
}
