//! `rkube config`: defaults of flags.

use rkube_cluster::{Home, Profile, Progress};
use rkube_failure::{Failure, Kind, Source};

use super::args::{Property, check_value, properties};
use super::output::{print_out, table};
use super::settings::Settings;
use super::template::Template;
use super::{Global, Output, file, minikube, usage_failure};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

impl Args {
    /// Whether the command prints a list of names.
    pub fn lists(&self) -> bool {
        matches!(self.command, Command::List)
    }
}

#[derive(clap::Subcommand)]
enum Command {
    /// Set the default of a flag of `rkube start`, or the current profile
    Set {
        /// Name of the flag without dashes, such as memory
        #[arg(value_name = "NAME")]
        name: String,
        /// Value of the flag
        #[arg(value_name = "VALUE", allow_hyphen_values = true)]
        value: String,
    },
    /// Print a default that was set
    Get {
        /// Name of the flag
        name: String,
    },
    /// Remove a default that was set
    Unset {
        /// Name of the flag
        name: String,
    },
    /// Print all defaults that were set
    View {
        /// Template for each of them [default: "- {{.ConfigKey}}: {{.ConfigValue}}"]
        #[arg(long, value_name = "TEMPLATE")]
        format: Option<String>,
    },
    /// Print the built-in default of a flag, or its possible values
    Defaults {
        /// Name of the flag
        name: String,
    },
    /// List the flags whose defaults can be set
    List,
    /// Print the JSON Schema of cluster files (rkube start -f)
    Schema,
    /// Print the cluster file of a cluster that exists
    Init,
}

/// Runs the command.
pub async fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    let mut settings = Settings::load(home)?;
    match args.command {
        Command::Set { name, value } => {
            let Some(value) = accepted(&name, &value, output)? else {
                return Ok(());
            };
            settings.set(&name, &value);
            settings.save(home)?;
            let note = match name.as_str() {
                "profile" | super::audit::SETTING => String::new(),
                _ => " It applies to the next 'rkube start'; much of it to new clusters only."
                    .to_owned(),
            };
            output.say(&format!("The default of '{name}' is now '{value}'.{note}"));
            Ok(())
        }
        Command::Get { name } => match settings.get(&name) {
            Some(value) => {
                output.result(&value, || value.to_owned());
                Ok(())
            }
            None => Err(not_set(&name)),
        },
        Command::Unset { name } => {
            // Also a name that an older rkube knew.
            if settings.unset(&name) {
                return settings.save(home);
            }
            property(&name).map(drop)
        }
        Command::View { format } => view(&settings, format.as_deref(), output),
        Command::Defaults { name } => {
            let property = property(&name)?;
            let defaults = defaults(&property);
            output.result(&defaults, || {
                defaults.iter().map(|d| format!("* {d}\n")).collect()
            });
            Ok(())
        }
        Command::List => {
            list(&settings, output);
            Ok(())
        }
        Command::Schema => print(file::SCHEMA, output),
        Command::Init => {
            let profile = Profile::load(home, &global.profile)?;
            print(&file::describe(home, &profile).await?, output)
        }
    }
}

/// Prints a document as it is, or in the format that is asked for. JSON is YAML, too.
pub fn print(text: &str, output: &Output) -> Result<(), Failure> {
    if output.text() {
        print_out(text);
        return Ok(());
    }
    let value: serde_json::Value = serde_yaml::from_str(text).map_err(|e| {
        let message = format!("the document cannot be converted: {e}");
        Failure::new(Source::Program, Kind::Error, message)
    })?;
    output.result(&value, String::new);
    Ok(())
}

/// Checks a setting. Returns the value to store, or `None` if there is no point in storing it.
fn accepted(name: &str, value: &str, output: &Output) -> Result<Option<String>, Failure> {
    if !properties().iter().any(|p| p.name == name)
        && let Some(findings) = minikube::check_setting(name, value)
    {
        findings.warnings.iter().for_each(|text| output.warn(text));
        return match findings.refusal {
            Some(refusal) => Err(refusal),
            None => Ok(None),
        };
    }
    property(name)?;
    if name == super::audit::SETTING {
        let on = super::values::parse_bool(value).map_err(usage_failure)?;
        return Ok(Some(on.to_string()));
    }
    if name == "profile" {
        rkube_cluster::check_name(value)?;
    } else {
        check_value(name, value).map_err(usage_failure)?;
    }
    Ok(Some(value.to_owned()))
}

fn property(name: &str) -> Result<Property, Failure> {
    let all = properties();
    let names: Vec<String> = all.iter().map(|p| p.name.clone()).collect();
    let near = super::near(name, &names);
    all.into_iter().find(|p| p.name == name).ok_or_else(|| {
        let failure = usage_failure(format!("there is no setting '{name}'"));
        match near {
            Some(near) => failure.advise(format!("did you mean '{near}'?")),
            None => failure.advise("list the settings with: rkube config list"),
        }
    })
}

fn not_set(name: &str) -> Failure {
    Failure::new(
        Source::Program,
        Kind::NotFound,
        format!("'{name}' is not set"),
    )
    .advise("print what is set with: rkube config view")
}

fn view(settings: &Settings, format: Option<&str>, output: &Output) -> Result<(), Failure> {
    let format = format.unwrap_or("- {{.ConfigKey}}: {{.ConfigValue}}\n");
    let template = Template::parse(format, &["ConfigKey", "ConfigValue"]).map_err(usage_failure)?;
    output.result(settings.all(), || {
        let lines = settings.all().iter().map(|(name, value)| {
            template.render(|field| match field {
                "ConfigKey" => name.clone(),
                _ => value.clone(),
            })
        });
        lines.collect()
    });
    Ok(())
}

/// Returns the possible values of a flag, or its default.
fn defaults(property: &Property) -> Vec<String> {
    if property.name == "driver" {
        return rkube_drivers::NAMES.map(str::to_owned).to_vec();
    }
    if !property.values.is_empty() {
        return property.values.clone();
    }
    let default = Some(property.default.clone()).filter(|d| !d.is_empty());
    default.into_iter().collect()
}

fn list(settings: &Settings, output: &Output) {
    #[derive(serde::Serialize)]
    struct Entry {
        name: String,
        value: Option<String>,
        default: String,
        variable: String,
        description: String,
    }
    let entries: Vec<Entry> = properties()
        .into_iter()
        .map(|p| Entry {
            value: settings.get(&p.name).map(str::to_owned),
            name: p.name,
            default: p.default,
            variable: p.variable,
            description: p.help,
        })
        .collect();
    output.result(&entries, || {
        let head = ["NAME", "VALUE", "ENVIRONMENT", "DESCRIPTION"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(entries.iter().map(|e| {
            vec![
                e.name.clone(),
                e.value.clone().unwrap_or_else(|| "-".to_owned()),
                e.variable.clone(),
                e.description.clone(),
            ]
        }));
        table(&rows)
    });
}
