package healer;

import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import com.fasterxml.jackson.databind.ObjectWriter;
import java.io.IOException;
import java.io.UncheckedIOException;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;

/** The values on the topics: only the fields used, one reader and one writer for each. */
final class Json {
  private static final ObjectMapper MAPPER = new ObjectMapper();

  /** A report of the platform; Jackson skips the other fields without making objects of them. */
  @JsonIgnoreProperties(ignoreUnknown = true)
  public static final class Report {
    public String queue_id;
    public String producer;
    public String status;
    public double sent_at;
    public boolean finished;
    public long records_written;
  }

  /** What is known of a Job. */
  public static final class Job {
    public double last_loading;
    public double started;
    public String status;
    public long reports;
  }

  /** Restart this Job. */
  public static final class Command {
    public String job;
    public double silent_seconds;
    public double decided_at;
  }

  static <T> Serde<T> serde(Class<T> type) {
    ObjectReader reader = MAPPER.readerFor(type);
    ObjectWriter writer = MAPPER.writerFor(type);
    return Serdes.serdeFrom(
        (topic, value) -> {
          try {
            return value == null ? null : writer.writeValueAsBytes(value);
          } catch (IOException error) {
            throw new UncheckedIOException(error);
          }
        },
        (topic, bytes) -> {
          try {
            return bytes == null ? null : reader.readValue(bytes);
          } catch (IOException error) {
            throw new UncheckedIOException(error);
          }
        });
  }

  private Json() {}
}
