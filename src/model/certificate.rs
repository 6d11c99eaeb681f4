//! The names in a client's certificate, after somebody else has verified it: what rules and logs call its holder.

/// Who a certificate is for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateNames {
    /// CN of the subject; none if it has several, for they could be read in two ways.
    pub common_name: Option<String>,
    /// `subjectAltName`, in its order; kinds that name no client are left out.
    pub alternative: Vec<AlternativeName>,
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
